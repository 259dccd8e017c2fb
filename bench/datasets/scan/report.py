"""What was counted, in lines for people."""

from __future__ import annotations

from bench.config.values import size_text
from bench.datasets.description import IDS, IGNORED, Description
from bench.datasets.scan.counting import Scan


def report(scan: Scan, known: Description, *, is_draft: bool) -> list[str]:
    """What was found, in lines for people.

    Args:
        scan: what there is.
        known: what it means.
        is_draft: whether that was made from the scan itself.
    """
    lines = [f"{scan.root}: {scan.layout.said}"]
    for split, listing in scan.layout.splits.items():
        lines.append(
            f"{split}: {len(listing.pairs)} images with masks, {len(listing.without_mask)} without"
            + (f" (first {listing.without_mask[0].name})" if listing.without_mask else "")
            + f", {len(listing.without_image)} masks without image"
            + (f" (first {listing.without_image[0].name})" if listing.without_image else "")
            + (f", {len(listing.lost)} images named that are not there ({listing.lost[0]})" if listing.lost else "")
        )
    sizes = sorted(scan.sizes.items(), key=lambda each: -each[1])
    shown = ", ".join(f"{size_text(size)}: {number}" for size, number in sizes[:5])
    others = f" and {len(sizes) - 5} others" if len(sizes) > 5 else ""
    lines.append(f"sizes (height x width: masks): {shown}{others}")
    if scan.unequal:
        lines.append(f"of another size than their mask: {len(scan.unequal)} images, first {scan.unequal[0]}")
    if scan.contradictions:
        lines.append(
            f"palettes differ, so that either may be meant: index {scan.contradictions[0]}; if it is the colours, add "
            "--colours"
        )
    lines += _table(scan, known)
    unknown = [value for value in scan.pixels if value not in known.meanings]
    for value in unknown:
        lines.append(f"{value} is not in {known.where}: {scan.pixels[value]} pixels, first in {scan.first[value]}")
    absent = [name for name, values in zip(known.names, known.values, strict=True) if not scan.pixels.keys() & values]
    if absent and not is_draft:
        lines.append(f"in no mask: {', '.join(absent)}")
    return lines


def _table(scan: Scan, known: Description) -> list[str]:
    pixels, masks = scan.pixels, scan.masks_with
    whole, weights = sum(pixels.values()), scan.weights(known.values)
    rows = [("id" if scan.labels == IDS else "colour", "class", "pixels", "share", "images", "weight")]
    for value, number in pixels.items():
        meaning = known.meanings.get(value)
        is_class = meaning is not None and meaning != IGNORED
        name = known.names[meaning] if is_class else "(unknown)" if meaning is None else "(ignored)"
        weight = f"{weights[meaning]:.4g}" if is_class else "-"
        rows.append((str(value), name, str(number), f"{number / whole:.2%}", str(masks[value]), weight))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        cells = [_cell(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    void = sum(number for value, number in pixels.items() if known.meanings.get(value) == IGNORED)
    return [*lines, f"void: {void} of {whole} pixels, {void / whole:.2%}"]


def _cell(text: str, width: int, column: int) -> str:
    # Names to the left, numbers to the right.
    return text.ljust(width) if column == 1 else text.rjust(width)
