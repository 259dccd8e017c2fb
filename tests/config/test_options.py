"""The groups of options: what their fields say of themselves."""

from __future__ import annotations

from dataclasses import fields

import pytest
from option_groups import GROUPS

from bench.config.declare import default_of, require
from bench.engine.options import PruneOptions
from bench.errors import UsageError
from bench.jobs.options import GridOptions
from bench.measure.options import ScoringOptions, TimingOptions


def test_lists_are_parsed_item_by_item():
    parse = {spec.name: spec.metadata["parse"] for spec in fields(GridOptions)}
    assert parse["methods"]("l1, taylor") == ["l1", "taylor"]
    assert parse["ratios"]("0.1,0.5") == [0.1, 0.5]
    assert parse["seeds"]("0,1,2") == [0, 1, 2]
    with pytest.raises(ValueError, match="'abc' is not a whole number"):
        parse["seeds"]("0,abc")
    with pytest.raises(ValueError, match="the list is empty"):
        parse["methods"](" , ")


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
    with pytest.raises(UsageError, match=r"^because$"):
        require(False, "because")


def test_a_training_records_scoring_and_timing_as_ever():
    # One group once; config.json holds the fields in this order.
    assert [spec.name for group in (ScoringOptions, TimingOptions) for spec in fields(group)] == [
        *("split", "eval_batch_size", "sliding_window", "stride", "scales", "flip", "boundary_width"),
        *("latency", "latency_batch", "latency_amp", "latency_channels_last", "latency_compile"),
        *("latency_warmup", "latency_runs", "latency_seconds", "per_layer"),
    ]
