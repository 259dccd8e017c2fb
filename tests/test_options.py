"""The values a flag's text becomes, and the text that is refused."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bench import options
from bench.options import (
    DataOptions,
    DistillOptions,
    FinetuneOptions,
    GridOptions,
    Int8Options,
    IterativeOptions,
    MeasureOptions,
    ModelOptions,
    OracleOptions,
    PageOptions,
    PruneOptions,
    RunOptions,
    SensitivityOptions,
    TrainOptions,
    above_zero,
    default_of,
    parse_ratio,
    parse_settings,
    parse_size,
    positive,
    require,
    share,
    whole,
)

GROUPS = (
    DataOptions,
    RunOptions,
    TrainOptions,
    ModelOptions,
    PruneOptions,
    IterativeOptions,
    SensitivityOptions,
    GridOptions,
    FinetuneOptions,
    DistillOptions,
    MeasureOptions,
    OracleOptions,
    PageOptions,
    Int8Options,
)


@pytest.mark.parametrize("text", ["360,480", "360x480", " 360 , 480 "])
def test_a_size_is_height_then_width(text):
    assert parse_size(text) == (360, 480)


@pytest.mark.parametrize("text", ["360", "360,480,3", "360;480", "360,", "-3,4", "3.5,4", "axb", "", "0,480", "360,0"])
def test_a_malformed_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "ratio"), [("0", 0.0), ("0.3", 0.3), ("1e-3", 0.001), ("0.999", 0.999)])
def test_a_ratio_is_a_share(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["1", "1.0", "-0.1", "nan", "inf", "30%", ""])
def test_a_ratio_outside_its_range_is_refused(text):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("parse", "good", "value", "bad"),
    [
        (whole, "0", 0, ["-1", "1.5", "many", ""]),
        (positive, "1", 1, ["0", "-1", "1e3"]),
        (share, "0", 0.0, ["-0.1", "nan", "little"]),
        (above_zero, "1e-4", 0.0001, ["0", "-1", "nan"]),
    ],
)
def test_numbers_have_a_lower_bound(parse, good, value, bad):
    assert parse(good) == value
    for text in bad:
        with pytest.raises(ValueError, match=r"is not a|is too small"):
            parse(text)


def test_settings_are_typed():
    settings = parse_settings("term=gamma, alpha=0.3,beta=1e-3,steps=-4,exact=true,cap=null")
    expected = {"term": "gamma", "alpha": 0.3, "beta": 0.001, "steps": -4, "exact": True, "cap": None}
    assert settings == expected
    assert {name: type(value) for name, value in settings.items()} == {n: type(v) for n, v in expected.items()}


def test_a_setting_may_be_a_list():
    assert parse_settings("classes=[0, 3],alpha=0.3") == {"classes": [0, 3], "alpha": 0.3}
    assert parse_settings("a.words=[x,y],b.one=[1],c=2") == {"a.words": ["x", "y"], "b.one": [1], "c": 2}
    assert parse_settings("none=[]") == {"none": []}


@pytest.mark.parametrize("text", ["term", "=gamma", "a=1,,b=2", "", "a=[", "a=[1,2", "a={", "a='"])
def test_malformed_settings_are_refused(text):
    with pytest.raises(ValueError, match="is not KEY=VALUE"):
        parse_settings(text)


def test_lists_are_parsed_item_by_item():
    parse = {spec.name: spec.metadata["parse"] for spec in fields(GridOptions)}
    assert parse["methods"]("l1, taylor") == ["l1", "taylor"]
    assert parse["ratios"]("0.1,0.5") == [0.1, 0.5]
    assert parse["seeds"]("0,1,2") == [0, 1, 2]
    with pytest.raises(ValueError, match="'abc' is not a whole number"):
        parse["seeds"]("0,abc")
    with pytest.raises(ValueError, match="the list is empty"):
        parse["methods"](" , ")


def test_all_groups_are_tested():
    declared = {name for name in vars(options) if name.endswith("Options")}
    assert declared == {group.__name__ for group in GROUPS}


def test_no_two_groups_share_a_flag():
    names = [spec.name for group in GROUPS for spec in fields(group)]
    assert len(names) == len(set(names))


def test_a_list_default_is_not_shared():
    first, second = PruneOptions(), PruneOptions()
    first.ignore.append("head")
    assert second.ignore == []
    assert default_of(next(spec for spec in fields(PruneOptions) if spec.name == "ignore")) == []


def test_require():
    require(True, "never")
    with pytest.raises(options.UsageError, match=r"^because$"):
        require(False, "because")
