"""How a method looks in every figure of the project: its colour, its dash and its marker.

Colours are told apart by the colour-blind as far as there are so many; dash and marker alone tell all methods of the
table apart, so that figures can be read in grey.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from bench.system.files import digest


class Look(NamedTuple):
    """How a method is drawn.

    Attributes:
        colour: on white, `#rrggbb`.
        dash: of lines, as matplotlib takes it: lengths of stroke and gap in line widths; empty: solid.
        marker: of points, as matplotlib takes it.
    """

    colour: str
    dash: tuple[float, ...]
    marker: str | tuple[int, int, int]

    @property
    def on_dark(self) -> str:
        """The colour on a dark page: half way to white."""
        parts = (int(self.colour[start : start + 2], 16) for start in (1, 3, 5))
        return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...] | None]:
        """The dash in the form of matplotlib's `linestyle`."""
        return 0, self.dash or None


SOLID, DASHED, DOTTED, DASH_DOT, LONG = (), (5.0, 2.0), (1.2, 1.6), (6.0, 2.0, 1.2, 2.0), (10.0, 2.5)

# Of Okabe and Ito, and of Tol's bright and muted schemes.
LOOKS = {
    "taylor": Look("#0072b2", SOLID, "o"),
    "slimming": Look("#d55e00", SOLID, "s"),
    "fpgm": Look("#009e73", DASHED, "^"),
    "fgp": Look("#cc79a7", SOLID, "D"),
    "sirfp": Look("#56b4e9", DASHED, "v"),
    "dmcp": Look("#e69f00", DASH_DOT, "P"),
    "l1": Look("#332288", DASHED, "X"),
    "l2": Look("#aa4499", DASH_DOT, "<"),
    "l1_global": Look("#661100", DASHED, ">"),
    "apoz": Look("#999933", DASH_DOT, "h"),
    "papm": Look("#882255", LONG, "p"),
    "obs": Look("#117733", LONG, "*"),
    "magnitude": Look("#44aa99", LONG, "8"),
    "random": Look("#8a8a8a", DOTTED, "d"),
}
"""The methods of the project; `random`, the control, is grey and dotted."""

BASELINE, BASELINE_ON_DARK = "#3b4048", "#6b7280"
"""The unpruned network, on white and on a dark page: no method's colours."""

_COLOURS = ("#88ccee", "#6699cc", "#cc6677", "#4b0092", "#1a85ff", "#d41159", "#5d6d00", "#994f00", "#006cd1")
# A hexagon that stands on its side, and stars: (points, 1, degrees).
_MARKERS = ("H", (3, 1, 0), (3, 1, 180), (4, 1, 0), (4, 1, 45), (6, 1, 0), (8, 1, 0))
_FURTHER = [Look(*look) for look in itertools.product(_COLOURS, (SOLID, DASHED, DASH_DOT, LONG), _MARKERS)]


def look_of(method: str) -> Look:
    """The look of any method: one that is not in the table has one by its name, in none of its colours."""
    if method in LOOKS:
        return LOOKS[method]
    return _FURTHER[int(digest(method), 16) % len(_FURTHER)]
