"""The goals of several cuts, by hand, and the options that ask for them."""

from __future__ import annotations

import json

import pytest

from bench.engine.cut_schedule import CutSchedule, goals, schedule_of
from bench.engine.options import IterativeOptions
from bench.errors import UsageError
from bench.plan.target import Goal, Target
from bench.system.files import plain
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions


def values(kind: str, value: float, shape: str, iterations: int = 3, dense: float = 1.0) -> list[float]:
    steps = goals(Goal(kind, value), iterations, shape, dense)
    assert {step.kind for step in steps} == {kind}
    assert len(steps) == iterations
    return [step.value for step in steps]


@pytest.mark.parametrize(
    ("kind", "value", "linear", "exponential"),
    [
        # A third of 0.6 each time; each cut leaves 0.4 ** (1/3) = 0.7368 of what was there.
        ("channels", 0.6, [0.2, 0.4, 0.6], [1 - 0.736806, 1 - 0.542884, 0.6]),
        ("macs", 0.4, [0.8, 0.6, 0.4], [0.736806, 0.542884, 0.4]),
        ("params", 0.125, [0.708333, 0.416667, 0.125], [0.5, 0.25, 0.125]),
        # A share to keep of whatever else can be measured.
        ("latency", 0.4, [0.8, 0.6, 0.4], [0.736806, 0.542884, 0.4]),
    ],
)
def test_goals_by_hand(kind, value, linear, exponential):
    assert values(kind, value, "linear") == pytest.approx(linear, abs=1e-6)
    assert values(kind, value, "exponential") == pytest.approx(exponential, abs=1e-6)


def test_sizes_are_whole_bytes_between_the_dense_network_and_the_goal():
    assert values("size", 1000, "linear", 3, dense=8000) == [5666, 3333, 1000]
    # In doubles 0.125 ** (2 / 3) may fall short of 0.25, and part of a byte is none.
    assert values("size", 1000, "exponential", 3, dense=8000) == pytest.approx([4000, 2000, 1000], abs=1)
    assert all(isinstance(value, int) for value in values("size", 1000, "exponential", 4, dense=8000))


@pytest.mark.parametrize("shape", ["linear", "exponential"])
@pytest.mark.parametrize(("kind", "value"), [("channels", 0.29), ("macs", 0.07), ("size", 10_000_019)])
def test_the_last_goal_is_the_one_asked_for(kind, value, shape):
    for iterations in (1, 2, 7):
        steps = values(kind, value, shape, iterations, dense=4e7)
        assert steps[-1] == value
        assert sorted(steps, reverse=kind != "channels") == steps


@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_nothing_to_remove_is_nothing_each_time(shape):
    assert values("channels", 0.0, shape) == [0.0] * 3
    assert values("macs", 1.0, shape) == [1.0] * 3


def test_targets_keep_their_limits_and_approach_named_shares():
    target = Target(
        Goal("macs", 0.5), "local", min_keep=0.1, max_ratio=0.8, round_to=8, ratio_of={"a*": 0.75, "b": 0.0}
    )
    steps = CutSchedule(2, "exponential", 0, TrainOptions()).targets(target, 123.0)
    assert steps[-1] == target
    first = steps[0]
    assert first.goal.value == pytest.approx(0.5**0.5)
    assert first.ratio_of == {"a*": pytest.approx(0.5), "b": 0.0}
    assert (first.goal.kind, first.scope, first.min_keep, first.max_ratio, first.round_to) == (
        "macs",
        "local",
        0.1,
        0.8,
        8,
    )


def test_only_the_last_goal_has_to_be_met_closely():
    steps = CutSchedule(3, "linear", 0, TrainOptions()).targets(Target(Goal("params", 0.5, within=0.01)), 1.0)
    assert [step.goal.within for step in steps] == [None, None, 0.01]


def test_one_cut_needs_no_schedule():
    assert schedule_of(IterativeOptions(), TrainOptions(), FinetuneOptions(), DistillOptions()) is None
    with pytest.raises(UsageError, match="pass `iterations=2` or more"):
        schedule_of(IterativeOptions(finetune_between=5), TrainOptions(), FinetuneOptions(), DistillOptions())


def test_the_recipe_is_that_of_training_at_the_rates_of_finetuning():
    options = IterativeOptions(4, "exponential", 10)
    taught = DistillOptions(0.5, 2.0)
    rates = FinetuneOptions(finetune_lr=0.02, finetune_backbone_lr_factor=0.5)
    schedule = schedule_of(options, TrainOptions(lr=1.0, batch_size=3), rates, taught)
    recipe = TrainOptions(lr=0.02, backbone_lr_factor=0.5, batch_size=3)
    assert schedule == CutSchedule(4, "exponential", 10, recipe, taught)


def test_a_teacher_needs_something_to_teach():
    taught, training = DistillOptions(0.5), TrainOptions()
    for options in (IterativeOptions(), IterativeOptions(iterations=3)):
        with pytest.raises(
            UsageError, match=r"^`distill_weight` acts in fine-tuning.*`finetune_between`.*`finetune_epochs`"
        ):
            schedule_of(options, training, FinetuneOptions(), taught)
        schedule_of(options, training, FinetuneOptions(finetune_epochs=1), taught)
    schedule_of(IterativeOptions(iterations=3, finetune_between=1), training, FinetuneOptions(), taught)


def test_the_record_holds_what_has_an_influence():
    schedule = CutSchedule(2, "linear", 5, TrainOptions(lr=0.02, crop_size=(4, 6)))
    record = plain(schedule.as_record())
    assert json.loads(json.dumps(record)) == record
    assert (record["iterations"], record["ratio_schedule"], record["finetune_between"]) == (2, "linear", 5)
    assert (record["recipe"]["lr"], record["recipe"]["crop_size"]) == (0.02, [4, 6])
    longer = CutSchedule(2, "linear", 5, TrainOptions(epochs=7, eval_every=3, lr=0.02, crop_size=(4, 6)))
    assert plain(longer.as_record()) == record
    taught = CutSchedule(2, "linear", 5, TrainOptions(lr=0.02, crop_size=(4, 6)), DistillOptions(0.5, 2.0)).as_record()
    learnt = {"distill_weight": 0.5, "distill_temperature": 2.0}
    assert plain(taught) == {**record, "recipe": {**record["recipe"], **learnt}}
    assert not learnt.keys() & record["recipe"].keys()
    untrained = [CutSchedule(2, "linear", 0, TrainOptions(lr=rate)).as_record() for rate in (0.1, 0.2)]
    assert untrained[0] == untrained[1]
