"""Whether a network timed against itself is not told apart, and one twice as wide is.

    python -m tests.benchmarks.same_model_latency [--runs 20] [--model unet_small] [--input-size 96,128] [--files]

Each run times the network against itself as `eval.py` times a candidate beside its baseline: the ratio should be
within 1 ± 0.03, and the interval should contain 1 in 19 of 20 runs. Of true 95 % intervals that many do in three of
four such series; more runs say more. Then the network is timed against itself with half of the channels of every
layer cut, than which it is twice as wide. Random weights. To be run on a machine that does nothing else.

With `--files` the two are one network saved twice, the second time with the strides of a network that was trained
channels last, as files had them before. Each run opens both and chooses the memory format, as a command does. Tables
say "no measurable difference" where the interval contains 1 at the two digits that they print: here they must always.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.config.values import parse_size
from bench.cut.network import cut
from bench.measure.latency import FULL_EFFORT, Effort, time_networks
from bench.measure.latency_format import faster_format
from bench.measure.latency_mode import PLAIN_MODE, LatencyMode
from bench.measure.latency_report import LatencyReport, speedup_in
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration

OUTPUTS, VOID = 12, 11
CLOSE, SHARE = 0.03, 19 / 20


def half_as_wide(model: nn.Module, input_size: tuple[int, int]) -> nn.Module:
    """The network without every second channel of every layer."""
    groups = find_groups(model)
    scores = make_pruner("l1").score(model, prunable(groups), Calibration([], VOID, seed=0))
    plan = make_plan(groups, scores, CostTable(model, groups, input_size), Target(Goal("channels", 0.5), "local"))
    narrow = copy.deepcopy(model)
    cut(narrow, groups, plan)
    return narrow


def saved_twice(model: nn.Module, spec: ModelSpec, folder: Path) -> tuple[Path, Path]:
    """Files of a network: as they are written now, and with channels-last strides."""
    now, before = folder / "contiguous.pt", folder / "channels_last.pt"
    save_model(now, SavedModel(model, spec))
    content = torch.load(now, weights_only=True)
    content["state_dict"] = copy.deepcopy(model).to(memory_format=torch.channels_last).state_dict()
    torch.save(content, before)
    return now, before


def timed_from_files(
    files: tuple[Path, Path], size: tuple[int, int], device: torch.device, effort: Effort
) -> LatencyReport:
    """Opens, chooses the format and times, as a command does."""
    first, second = (load_model(file).model.to(device) for file in files)
    choice = faster_format(first, size, device=device, mode=PLAIN_MODE, effort=effort)
    mode = LatencyMode(channels_last=choice.channels_last)
    return time_networks({"first": first, "second": second}, size, device=device, mode=mode, effort=effort)


def main() -> None:
    """Times the network against itself and against half of it; the exit status says whether both came out right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--runs", type=int, default=20, help="how often the network is timed against itself")
    parser.add_argument("--input-size", type=parse_size, default=(96, 128))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100, help="timed passes of each network in a run")
    parser.add_argument("--seconds", type=float, default=30.0, help="time limit of a run")
    parser.add_argument("--files", action="store_true", help="open the two from files of both memory formats")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    spec, size, device = ModelSpec(arguments.model, OUTPUTS), arguments.input_size, torch.device(arguments.device)
    model = build_model(spec).eval()
    narrow = half_as_wide(model, size).to(device)
    effort = replace(FULL_EFFORT, runs=arguments.rounds, seconds=arguments.seconds)

    def timed(other: nn.Module) -> LatencyReport:
        return time_networks({"first": model, "second": other}, size, device=device, effort=effort)

    with tempfile.TemporaryDirectory() as folder:
        files = saved_twice(model, spec, Path(folder))
        model.to(device)
        close = undecided = told_apart = 0
        for run in range(1, arguments.runs + 1):
            report = timed_from_files(files, size, device, effort) if arguments.files else timed(model)
            same = report.networks["second"]
            close += abs(same.speedup - 1) <= CLOSE
            undecided += same.speedup_low <= 1 <= same.speedup_high
            told_apart += speedup_in(vars(same)).is_measurable
            print(f"run {run:3}: {same.median_ms:8.2f} ms {same.memory_format}, ratio {same.speedup:.4f} "
                  f"({same.speedup_low:.4f}-{same.speedup_high:.4f}), {report.rounds} rounds", flush=True)  # fmt: skip
    half = timed(narrow).networks["second"]
    print(f"{close} of {arguments.runs} ratios within 1 ± {CLOSE}, {undecided} of {arguments.runs} intervals contain 1")
    print(f"told apart in a table: {told_apart}")
    print(f"half as wide: {half.median_ms:.2f} ms, {half.speedup_text()}")
    alike = close == arguments.runs and undecided >= SHARE * arguments.runs
    alike = told_apart == 0 if arguments.files else alike
    sys.exit(0 if alike and half.speedup_low > 1 else 1)


if __name__ == "__main__":
    main()
