"""Charts: what is drawn where."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.report.svg_charts import WIDTH, bar_chart, strip_chart


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def marks(chart: str, tag: str, kind: str) -> list[ElementTree.Element]:
    """Elements of a tag and class, in the order they are drawn."""
    return [entry for entry in parsed(chart).iter(tag) if entry.get("class") == kind]


def texts(chart: str, kind: str) -> list[str]:
    return [entry.text or "" for entry in marks(chart, "text", kind)]


def ticks(chart: str) -> dict[float, float]:
    """Number -> where it stands."""
    lines = [float(line.get("x1")) for kind in ("axis", "grid") for line in marks(chart, "line", kind)]
    numbers = [entry for entry in marks(chart, "text", "label") if entry.get("text-anchor") == "middle"]
    assert sorted(lines) == sorted(float(entry.get("x")) for entry in numbers)
    return {float(entry.text): float(entry.get("x")) for entry in numbers}


def test_bars_are_as_long_as_the_values():
    series = {"baseline": [80.0, None, 0.0], "candidate": [40.0, 20.0, 10.25]}
    chart = bar_chart("IoU", ["sky", "train", "pole"], series, unit="%", digits=1)
    axis = ticks(chart)
    assert list(axis) == [0, 20, 40, 60, 80]
    scale = (axis[80] - axis[0]) / 80
    for number, values in enumerate(series.values()):
        bars = marks(chart, "rect", f"series{number}")
        shown = [value for value in values if value is not None]
        assert [float(bar.get("width")) for bar in bars] == pytest.approx([scale * value for value in shown], abs=0.02)
        assert {float(bar.get("x")) for bar in bars} == {axis[0]}
    assert texts(chart, "value") == ["80.0", "40.0", "-", "20.0", "0.0", "10.2"]
    assert marks(chart, "rect", "series1")[0].find("title").text == "sky, candidate: 40.0 %"
    # The two bars of a name are side by side, below those of the name before.
    first, second = (float(marks(chart, "rect", f"series{number}")[0].get("y")) for number in range(2))
    assert first < second < float(marks(chart, "rect", "series1")[1].get("y"))


def test_a_chart_has_a_name_and_fits_its_box():
    long = "a very long name of a layer far down in the backbone"
    chart = bar_chart('a & "b" <c>', ["<x>", long], {"s": [1, 7]}, unit="", digits=0)
    image = parsed(chart)
    assert (image.get("role"), image.get("aria-label")) == ("group", 'a & "b" <c>')
    width, height = (float(part) for part in image.get("viewBox").split()[2:])
    assert (width, image.get("width"), image.get("height")) == (WIDTH, f"{width:g}", f"{height:g}")
    for bar in image.iter("rect"):
        assert float(bar.get("x")) >= 0 and float(bar.get("x")) + float(bar.get("width")) <= width
        assert float(bar.get("y")) + float(bar.get("height")) <= height
    names = [entry for entry in image.iter("text") if entry.get("text-anchor") == "end" and entry.text]
    assert [entry.text for entry in names] == ["<x>", "…" + long[-25:]]
    assert names[1].find("title").text == long


def test_no_value_above_zero_still_makes_an_axis():
    for value in (None, 0.0):
        axis = ticks(bar_chart("IoU", ["a"], {"s": [value]}, unit="%", digits=1))
        assert (min(axis), max(axis)) == (0, 1)


def test_a_strip_shows_each_value_the_median_and_the_tenth_parts():
    fast, slow = [10.0 + number / 10 for number in range(11)], [20.0 + number / 10 for number in range(11)]
    chart = strip_chart("times", {"baseline": slow[::-1], "candidate": fast}, unit="ms")
    axis = ticks(chart)
    low, high = min(axis), max(axis)
    assert low <= 10 and high >= 21

    def place(value: float) -> float:
        return axis[low] + (value - low) * (axis[high] - axis[low]) / (high - low)

    for number, values in enumerate((slow[::-1], fast)):
        dots = marks(chart, "circle", f"series{number}")
        assert [float(dot.get("cx")) for dot in dots] == pytest.approx([place(value) for value in values], abs=0.02)
        heights = [float(dot.get("cy")) for dot in dots]
        assert heights == sorted(heights) and len(set(heights)) == 11
        (median,) = marks(chart, "line", f"series{number} median")
        middle = sorted(values)[5]
        assert float(median.get("x1")) == float(median.get("x2")) == pytest.approx(place(middle), abs=0.02)
        assert median.find("title").text == f"median {middle:.3f} ms"
        (box,) = marks(chart, "rect", f"series{number} box")
        assert float(box.get("x")) == pytest.approx(place(sorted(values)[1]), abs=0.02)
        assert float(box.get("width")) == pytest.approx(place(1) - place(0.2), abs=0.02)


def test_a_far_off_value_does_not_squeeze_the_others():
    usual = [10.0 + number / 10 for number in range(20)]
    chart = strip_chart("times", {"a": [*usual, 900.0], "b": usual}, unit="ms")
    assert max(ticks(chart)) < 20
    assert (len(marks(chart, "circle", "series0")), len(marks(chart, "circle", "series1"))) == (20, 20)
    assert texts(chart, "value") == ["1 beyond"]


def test_equal_times_have_an_axis_too():
    chart = strip_chart("times", {"a": [5.0, 5.0]}, unit="ms")
    assert len(ticks(chart)) > 1 and len(marks(chart, "circle", "series0")) == 2
