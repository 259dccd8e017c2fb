"""Which reason is given where a group has several."""

from __future__ import annotations

import pytest
import toy_networks as toys
from torch import nn

from bench.channels.groups import _as_groups, find_groups, layers_to_spare
from bench.channels.protection import FIRST, IGNORED, UNUSED, reasons_to_protect
from bench.channels.tracing import OUTPUT, Trace
from bench.errors import UsageError


def reasons_of(model: nn.Module, **options: object) -> dict[str, str]:
    trace = Trace(model)
    groups, traced = zip(*_as_groups(trace.channels(), trace.norm_behind, model), strict=True)
    return reasons_to_protect(model, groups, traced, trace.run, **options)


def test_only_what_stays_is_named() -> None:
    assert reasons_of(toys.Chain()) == {"head": OUTPUT}


def test_the_users_reasons_hide_what_channels_are_for_and_that_hides_obstacles() -> None:
    model = toys.Between(nn.LocalResponseNorm(3))
    assert reasons_of(model) == {"first": "layer passes them through avg_pool3d", "head": OUTPUT}
    ignored = reasons_of(model, ignore=["*"])
    assert ignored == {"first": f"{IGNORED} '*'", "head": f"{IGNORED} '*'"}
    assert reasons_of(model, ignore=["*"], protect_first=True) == {**ignored, "first": FIRST}
    # An auxiliary head is an output in training and not run at inference; the former is said.
    auxiliary = reasons_of(toys.Auxiliary())
    assert {OUTPUT, UNUSED} >= set(auxiliary.values())
    assert list(auxiliary.values()).count(OUTPUT) == 2


def test_layers_are_spared_for_what_they_are_for_alone() -> None:
    groups = find_groups(toys.Between(nn.LocalResponseNorm(3)))
    assert layers_to_spare(groups) == {"head"}


def test_the_last_pattern_that_fits_is_the_reason_and_one_that_fits_nothing_an_error() -> None:
    reasons = reasons_of(toys.Chain(), ignore=["first*", "*.0"])
    assert reasons["first.0"] == reasons["second.0"] == f"{IGNORED} '*.0'"
    with pytest.raises(UsageError, match="`ignore` pattern 'third' matches no layer that makes channels"):
        reasons_of(toys.Chain(), ignore=["third"])
