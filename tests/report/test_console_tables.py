"""The console table of layers; those of comparisons, pairs and groups are in `test_summary`."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench.measure.layer_costs import LayerCost
from bench.report.console_tables import framed, layers_table


def shown(rows: list[LayerCost]) -> list[list[str]]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(layers_table(rows))
    return [line.split() for line in capture.get().splitlines()]


def test_layers_are_shown_with_their_sum():
    lines = shown(
        [
            LayerCost("stem", "Conv2d", [8, 3, 3, 3], [5, 3, 3, 3], 2_000_000, 1_250_000, 1.5, 1.0),
            LayerCost("head", "Linear", [12, 8], [12, 5], 960_000, 600_000, 0.25, 0.125),
        ]
    )
    for words in (
        "stem 8x3x3x3 -> 5x3x3x3 2.00 -> 1.25 1.500 -> 1.000",
        "head 12x8 -> 12x5 0.96 -> 0.60 0.250 -> 0.125",
        "all of them 2.96 -> 1.85 1.750 -> 1.125",
    ):
        assert words.split() in lines
    lines = shown([LayerCost("stem", "Conv2d", [8, 3, 3, 3], None, 2_000_000, None, 1.5, None)])
    for words in ("stem 8x3x3x3 2.00 1.500", "all of them 2.00 1.500"):
        assert words.split() in lines


@pytest.mark.parametrize("width", [24, 30, 80])
def test_a_narrow_console_takes_more_lines_and_loses_no_letter(width):
    table = framed("mIoU", ["method", "target", "speed-up"])
    table.add_row("l1_global", "macs 0.25", "1.28x (1.24-1.31)")
    console = Console(width=width, color_system=None)
    with console.capture() as caught:
        console.print(table)
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in caught.get()
    below = next(number for number, line in enumerate(lines) if "─" in line) + 1
    letters = sorted("".join(lines[below:]).replace(" ", "").replace("─", ""))
    assert letters == sorted("l1_globalmacs0.251.28x(1.24-1.31)")
