"""Names of cells: exact both ways."""

from __future__ import annotations

import pytest

from bench.sweep.names import CellName, parse_cell

NAMES = {
    "taylor@0.3@0": ("channels", 0.3),
    "l1@0.1234567890123@2": ("channels", 0.1234567890123),
    "l1@macs0.5@0": ("macs", 0.5),
    "l1@params0.25@1": ("params", 0.25),
    "l1@size10MB@0": ("size", 10**7),
    "l1@size1234567B@0": ("size", 1234567),
    "l1@latency0.6@0": ("latency", 0.6),
    "l1@latency12.5ms@0": ("milliseconds", 12.5),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is_written(name):
    cell = parse_cell(name)
    assert (cell.kind, cell.value) == NAMES[name]
    assert str(cell) == name
    assert parse_cell(str(CellName(*cell))) == cell


@pytest.mark.parametrize(
    "text", ["taylor", "taylor@0.3", "@0.3@0", "l1@1.5@0", "l1@mac0.5@0", "l1@0.3@x", "l1@0.3@0@1"]
)
def test_what_is_no_name_says_why(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_cell(text)
