"""Summary and page of 2,000 finished cells: seconds of --report-only, bytes of the page, seconds of sorting it.

    python -m tests.benchmarks.page_of_many_cells

The cells' records are made up in a temporary folder; what reads them is the command itself. Exits with 1 where it takes
20 seconds or more, the page is of 4 MB or more, or a sort takes a second or more in Chromium, where there is one.
"""

from __future__ import annotations

import base64
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.pruners import methods
from bench.system.files import write_json
from tests.browser import browser, executable
from tests.fabricated_records import SHA, benchmark
from tests.scripts import ROOT

CELLS = 2000
PICTURE = 4000
SECONDS, BYTES, SORT_SECONDS = 20.0, 4e6, 1.0
_SORT = "document.querySelector('[data-sort=miou]').click()"


def measured(names: list[str], kept: list[float], seeds: list[int]) -> bool:
    """Prints what one grid takes; returns whether all is within the limits."""
    with tempfile.TemporaryDirectory() as folder:
        out = benchmark(Path(folder) / "out", names, kept, seeds)
        draw_worst_images(out)
        cells = len(names) * len(kept) * len(seeds)
        began, before = time.perf_counter(), _processor_seconds()
        command = [sys.executable, "benchmark.py", "--out-dir", str(out), "--report-only"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        page = out / "leaderboard.html"
        size = page.stat().st_size
        spent, lines = _processor_seconds() - before, len(names) * len(kept)
        print(f"{cells} cells, {lines} lines: {seconds:.1f} s ({spent:.1f} s of a processor), page {size / 1e6:.2f} MB")
        sort = sort_seconds(page, Path(folder))
        print(f"    a sort: {f'{sort:.3f} s' if sort is not None else 'no browser'}")
        return seconds < SECONDS and size < BYTES and (sort is None or sort < SORT_SECONDS)


def draw_worst_images(out: Path) -> None:
    """Gives each job three pictures as large as those of street scenes; of noise, which no page packs."""
    drawn = random.Random(0)
    for job in out.glob("*/done"):
        images = [
            {
                "image": f"seq{drawn.randrange(100):02}_{drawn.randrange(10**6):06}",
                "baseline": drawn.random(),
                "candidate": drawn.random(),
                "picture": f"data:image/jpeg;base64,{base64.b64encode(drawn.randbytes(PICTURE)).decode()}",
            }
            for _ in range(3)
        ]
        write_json(job.with_name("worst_images.json"), {"format": "worst-images/1", "sha256": SHA, "images": images})


def _processor_seconds() -> float:
    """Of the commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def sort_seconds(page: Path, folder: Path) -> float | None:
    """The longest of three sorts of the table, in seconds that the page's thread computes."""
    program = executable()
    if program is None:
        return None
    (folder / "browser").mkdir()
    with browser(program, folder / "browser") as chromium:
        chromium.visit(page)
        return max(chromium.busy_seconds(_SORT) for _ in range(3))


def main() -> None:
    """Measures a grid of few lines with many seeds, and one of as many lines as cells."""
    names = [name for name in methods() if name != "magnitude"][:10]
    targets = [round(0.05 + 0.9 * number / 20, 4) for number in range(20)]
    fine = [round(0.05 + 0.9 * number / 200, 5) for number in range(200)]
    few, many = measured(names, targets, list(range(10))), measured(names, fine, [0])
    sys.exit(0 if few and many else 1)


if __name__ == "__main__":
    main()
