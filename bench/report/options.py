"""The page beside a report."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import whole


@dataclass
class PageOptions:
    """The HTML page beside a report."""

    html: bool = option(True, "also write the report as a page with charts and images, REPORT.html beside the JSON")
    html_images: int = option(
        4,
        "the most images in the page of --html: those the two networks disagree on most, or the baseline alone is "
        "wrong on most",
        parse=whole,
    )
