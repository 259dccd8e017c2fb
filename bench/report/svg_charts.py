"""Draws charts as SVG for an HTML page: text that can be read out and found, colours from the page's style.

Every mark has one of the classes `axis`, `grid`, `label` and `value`, or that of its series, `series0`, `series1`, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH = 520
"""Of every chart, in pixels where it is shown at its full size."""

_RIGHT, _TOP, _AXIS = 44, 8, 34
_BAR, _GAP = 14, 10
# DejaVu Sans and its like at 14 pixels, the widest a browser may fall back to.
_LETTER, _LONGEST = 8.5, 26
_ROW = 74


def bar_chart(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, unit: str, digits: int
) -> str:
    """Bars to the right: for each name one of every series, with its value behind it.

    Args:
        title: what is shown, for those who do not see it.
        names: what each group of bars is about.
        series: name -> a value of at least 0 for each of the names; None has no bar.
        unit: of the values.
        digits: behind the point of the values shown.
    """
    left = _left(names)
    row = _BAR * len(series) + _GAP
    bottom = _TOP + row * len(names)
    known = [value for values in series.values() for value in values if value is not None]
    ticks = _ticks(0, max(known, default=1) or 1)
    scale = (WIDTH - left - _RIGHT) / ticks[-1]
    parts = _axis(ticks, left, scale, bottom, unit)
    for position, name in enumerate(names):
        top = _TOP + _GAP / 2 + position * row
        middle = top + _BAR * len(series) / 2 + 5
        parts.append(_text(left - 8, middle, _shortened(name), "label", anchor="end", title=name))
        for number, (label, values) in enumerate(series.items()):
            value, y = values[position], top + number * _BAR
            shown = "-" if value is None else f"{value:.{digits}f}"
            if value is not None:
                hint = escape(f"{name}, {label}: {shown} {unit}".strip())
                parts.append(
                    f'<rect class="series{number}" x="{left}" y="{_short(y)}" width="{_short(value * scale)}" '
                    f'height="{_BAR - 1}"><title>{hint}</title></rect>'
                )
            parts.append(_text(left + (value or 0) * scale + 4, y + _BAR - 3, shown, "value"))
    return _svg(title, bottom + _AXIS, parts)


def strip_chart(title: str, series: Mapping[str, Sequence[float]], *, unit: str) -> str:
    """One strip a series: a dot for each value, the first on top; a line at the median, a box around the middle 80 %.

    The axis leaves out single values far off the others; a strip says how many of its own.

    Args:
        title: what is shown, for those who do not see it.
        series: name -> positive values in the order they were measured, at least one.
        unit: of the values.
    """
    left = _left(list(series))
    bottom = _TOP + _ROW * len(series)
    spread = {name: np.percentile(values, (10, 50, 90)).tolist() for name, values in series.items()}
    reach = max(high + 2 * (high - low) for low, _, high in spread.values())
    seen = [value for values in series.values() for value in values if value <= reach]
    ticks = _ticks(min(seen), max(seen))
    scale = (WIDTH - left - _RIGHT) / (ticks[-1] - ticks[0])
    parts = _axis(ticks, left, scale, bottom, unit)
    for number, (name, values) in enumerate(series.items()):
        top = _TOP + number * _ROW + 6
        height = _ROW - 12
        low, middle, high = (left + (value - ticks[0]) * scale for value in spread[name])
        parts.append(_text(left - 8, top + height / 2 + 4, _shortened(name), "label", anchor="end", title=name))
        parts.append(
            f'<rect class="series{number} box" x="{_short(low)}" y="{_short(top)}" '
            f'width="{_short(max(high - low, 1))}" height="{height}"/>'
        )
        shown = [(order, value) for order, value in enumerate(values) if value <= ticks[-1]]
        for order, value in shown:
            x, y = left + (value - ticks[0]) * scale, top + 3 + (height - 6) * (order + 0.5) / len(values)
            parts.append(f'<circle class="series{number}" cx="{_short(x)}" cy="{_short(y)}" r="2"/>')
        parts.append(
            f'<line class="series{number} median" x1="{_short(middle)}" x2="{_short(middle)}" y1="{_short(top - 3)}" '
            f'y2="{_short(top + height + 3)}"><title>median {spread[name][1]:.3f} {escape(unit)}</title></line>'
        )
        if beyond := len(values) - len(shown):
            parts.append(_text(WIDTH, top + height / 2 + 4, f"{beyond} beyond", "value", anchor="end"))
    return _svg(title, bottom + _AXIS, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'width="{WIDTH}" height="{_short(height)}" viewBox="0 0 {WIDTH} {_short(height)}"'
    name = escape(title, quote=True)
    return f'<svg role="group" aria-label="{name}" {size}>\n' + "\n".join(parts) + "\n</svg>"


def _axis(ticks: Sequence[float], left: float, scale: float, bottom: float, unit: str) -> list[str]:
    """Lines through the ticks, the numbers below them, the unit at the end."""
    parts = []
    for tick in ticks:
        x = _short(left + (tick - ticks[0]) * scale)
        kind = "axis" if tick == ticks[0] else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_short(bottom)}"/>')
        parts.append(_text(float(x), bottom + 16, f"{tick:g}", "label", anchor="middle"))
    parts.append(_text(WIDTH, bottom + 16, unit, "label", anchor="end"))
    return parts


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start", title: str = "") -> str:
    hint = f"<title>{escape(title)}</title>" if title and title != text else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{_short(x)}" y="{_short(y)}"{side}>{escape(text)}{hint}</text>'


def _left(names: Sequence[str]) -> int:
    """Room for the names."""
    return round(16 + _LETTER * max(len(_shortened(name)) for name in names))


def _shortened(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = max(step for step in (1, 2, 5, 10) if step * power * 4 <= span * (1 + 1e-9)) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
