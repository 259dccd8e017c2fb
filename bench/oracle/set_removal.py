"""Measures what removing a whole set of channels costs: the least important by a method, by the oracle, random ones.

Where a channel is one of two alike neither seems to matter by itself; a set that holds both shows that they do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch

from bench.oracle.ablation import Removal
from bench.oracle.agreement import Importances, bottom, gain
from bench.oracle.loss_changes import Oracle
from bench.oracle.options import OracleOptions
from bench.rounding import share_up

RANDOM_SETS = 10
"""Random sets of each group's channels, whose losses are averaged."""


class SetTest(TypedDict):
    """Loss per pixel without a set, the mean over the groups: of random sets, the method's and the oracle's.

    `gain` is how much of what the oracle's choice saves over a random one the method's saves.
    """

    gain: float
    random: float
    method: float
    oracle: float


def set_tests(oracle: Oracle, judged: Sequence[Importances], options: OracleOptions) -> list[dict[float, SetTest]]:
    """Removes the least important sampled channels of each group together, by the scores of several methods.

    Args:
        oracle: the loss changes of single channels, and how losses are measured.
        judged: of each method the scores of the sampled channels.
        options: the shares of the channels to remove, and the seed of the random sets.

    Returns:
        Of each method ratio -> what that costs.
    """
    truth = oracle.magnitudes()
    generator = torch.Generator().manual_seed(options.oracle_seed)
    noise = [
        {name: torch.rand(len(values), generator=generator) for name, values in truth.items()}
        for _ in range(RANDOM_SETS)
    ]
    choices = [truth, *noise, *judged]
    sets = [_sets(oracle, choice, ratio) for ratio in options.oracle_ratios for choice in choices]
    losses = iter(_losses(oracle, sets))
    tests: list[dict[float, SetTest]] = [{} for _ in judged]
    for ratio in options.oracle_ratios:
        best, *found = itertools.islice(losses, len(choices))
        for test, own in zip(tests, found[RANDOM_SETS:], strict=True):
            test[ratio] = _test(own, best, found[:RANDOM_SETS])
    return tests


def _sets(oracle: Oracle, choice: Importances, ratio: float) -> list[Removal]:
    """Each group's least important sampled channels."""
    found = []
    for group, channels in oracle.sampled.items():
        if group.name in choice:
            marked = bottom(choice[group.name], share_up(ratio, len(channels)), seed=0)
            found.append((group, tuple(itertools.compress(channels, marked.tolist()))))
    return found


def _losses(oracle: Oracle, sets: Sequence[Sequence[Removal]]) -> list[dict[str, float]]:
    """For each choice of sets group name -> loss per pixel without the group's set; all are measured in one go."""
    losses = oracle.ablation.losses([removal for part in sets for removal in part]).sum(1)
    per_pixel = (losses / oracle.ablation.pixels.sum()).split([len(part) for part in sets])
    names = [[group.name for group, _ in part] for part in sets]
    return [dict(zip(part, found.tolist(), strict=True)) for part, found in zip(names, per_pixel, strict=True)]


def _test(own: Mapping[str, float], best: Mapping[str, float], random: Sequence[Mapping[str, float]]) -> SetTest:
    """Compares losses over the groups that the method can tell about."""
    chance = sum(sum(draw[name] for draw in random) / RANDOM_SETS for name in own)
    method, least = sum(own.values()), sum(best[name] for name in own)
    count = len(own)
    return {
        "gain": gain(chance, method, least),
        "random": chance / count,
        "method": method / count,
        "oracle": least / count,
    }
