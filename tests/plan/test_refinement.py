"""The search around a plan: what it tries, keeps and takes up again, on plans made of multipliers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import toy_networks as toys

from bench.channels.groups import find_groups, prunable
from bench.plan.cost_model import exact_cost
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, make_plan
from bench.plan.refinement import Trial, perturbed, refine
from bench.plan.target import Goal, Target
from bench.plan.weighed_order import Objective

NAMES = ["a", "b", "c"]


class Search:
    """Plans of a small network, whose loss is how many channels one group has lost."""

    def __init__(self) -> None:
        self.groups = find_groups(toys.Residual())
        self.table = CostTable(toys.Residual(), self.groups, (16, 24))
        self.scores = toys.random_scores(self.groups)
        self.names = [group.name for group in prunable(self.groups)]
        self.asked: list[PruningPlan] = []

    def plan(self, multipliers: Mapping[str, float]) -> PruningPlan:
        objective = Objective(exact_cost(self.table, "macs"), multipliers=multipliers)
        return make_plan(self.groups, self.scores, self.table, Target(Goal("macs", 0.5)), None, objective)

    def loss(self, plan: PruningPlan) -> float:
        self.asked.append(plan)
        return float(len(self.scores[self.names[0]]) - len(plan.kept[self.names[0]]))

    def run(self, trials: int, **settings: object) -> tuple[PruningPlan, list[Trial]]:
        return refine(self.names, self.plan, self.loss, lambda _: True, trials=trials, seed=0, **settings)


def test_the_best_plan_is_kept() -> None:
    search = Search()
    plan, trials = search.run(20)
    assert [trial.trial for trial in trials] == list(range(21))
    assert trials[0].multipliers == {} and trials[0].is_best
    least = min(trial.loss for trial in trials)
    assert least < trials[0].loss
    assert search.loss(plan) == least
    bests = [trial.loss for trial in trials if trial.is_best]
    assert bests == sorted(set(bests), reverse=True) and bests[-1] == least
    for trial, made in zip(trials, search.asked, strict=False):
        assert (trial.macs, trial.parameters, trial.channels) == (*made.predicted[1::-1], made.channels[0])


def test_no_trial_is_the_plan_itself() -> None:
    search = Search()
    plan, (only,) = search.run(0)
    assert plan == search.plan({}) and only.is_best


def test_a_dearer_plan_does_not_count() -> None:
    search = Search()
    plan, trials = refine(search.names, search.plan, search.loss, lambda _: False, trials=10, seed=0)
    assert plan == search.plan({})
    assert [trial.is_allowed for trial in trials] == [True] + [False] * 10
    assert min(trial.loss for trial in trials) < trials[0].loss


def test_a_search_goes_on_where_it_stopped() -> None:
    whole, written = Search(), []
    plan, trials = whole.run(12, keep=lambda done: written.append(list(done)))
    assert [len(done) for done in written] == list(range(1, 14))
    again = Search()
    found, all_trials = again.run(12, known=written[7])
    assert (found, all_trials) == (plan, trials)
    assert len(again.asked) == 13 - 8
    # A shorter search of the same seed is the beginning of a longer one.
    assert Search().run(5)[1] == trials[:6]


def test_multipliers_are_drawn_by_seed_and_number_around_the_best() -> None:
    assert perturbed(NAMES, {}, 0, 1) == perturbed(NAMES, {}, 0, 1)
    assert perturbed(NAMES, {}, 0, 1) != perturbed(NAMES, {}, 0, 2) != perturbed(NAMES, {}, 1, 2)
    many = [perturbed(NAMES, {}, 3, number) for number in range(200)]
    assert all(drawn for drawn in many)
    logs = [math.log(value) for drawn in many for value in drawn.values()]
    assert abs(sum(logs) / len(logs)) < 0.1 and 0.5 < math.sqrt(sum(log**2 for log in logs) / len(logs)) < 0.9
    near = perturbed(NAMES, {"a": 8.0, "b": 1.0}, 0, 1)
    plain = perturbed(NAMES, {}, 0, 1)
    assert near["a"] / 8 == plain.get("a", 1.0)
