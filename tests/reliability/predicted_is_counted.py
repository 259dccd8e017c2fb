"""Cuts 30 % of the channels of networks and counts what is left: predictions must be what is counted, to the last MAC.

    python -m tests.reliability.predicted_is_counted networks.py [--match 'smp_*'] [--size 64 96] [--limit 60]

The file names its networks in `NETS: name -> (kind, factory(number of outputs))`. Each is built with seed 0 and pruned
in a process of its own, at random and by the same share everywhere; parameters, MACs and bytes of the cut network are
counted and compared. Prints a line a network: `equal`, `refused` with the line that says why, or what is wrong; exits
with 1 if anything is.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # For `python tests/reliability/predicted_is_counted.py`, too.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.channels.groups import find_groups, prunable
from bench.cut.network import cut
from bench.errors import BenchError
from bench.measure.cost import measure_cost
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.torch_utils import torchvision_compat  # noqa: F401 - before torchvision

OUTPUTS, SHARE = 7, 0.3


def verdict(networks: ModuleType, name: str, size: tuple[int, int]) -> str:
    """What became of a network, in one line that begins with `equal`, `refused` or `wrong`."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = networks.NETS[name][1](OUTPUTS).eval()
    try:
        groups = find_groups(model, input_size=size)
        table = CostTable(model, groups, size)
        free = prunable(groups)
        generator = torch.Generator().manual_seed(0)
        scores = {group.name: torch.rand(group.channels, generator=generator) for group in free}
        plan = make_plan(groups, scores, table, Target(Goal("channels", SHARE), "local"))
    except BenchError as error:
        return f"refused {error}"
    dense = counted(model, size)
    cut(model, groups, plan)
    pairs = {"dense": (plan.dense, dense), "cut": (plan.predicted, counted(model, size))}
    wrong = [
        f"{which} is predicted as {told}, counted as {seen}" for which, (told, seen) in pairs.items() if told != seen
    ]
    share = plan.predicted.macs / plan.dense.macs
    said = f"{len(free)} of {len(groups)} groups may go, {share:.0%} of the MACs stay"
    return f"wrong   {'; '.join(wrong)}" if wrong else f"equal   {said}"


def counted(model: torch.nn.Module, size: tuple[int, int]) -> Prediction:
    """What a network costs, as `bench.measure.cost` counts it."""
    cost = measure_cost(model, size)
    return Prediction(cost.parameters, cost.macs, cost.state_bytes)


def in_process(networks: ModuleType, name: str, size: tuple[int, int], limit: float) -> str:
    """The verdict of a process of its own, which may not take longer than so many seconds."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run(answer: Connection) -> None:
        try:
            answer.send(verdict(networks, name, size))
        except Exception as error:  # noqa: BLE001 - whatever comes through would be a traceback
            answer.send(f"wrong   {type(error).__name__}: {error}".replace("\n", " ")[:300])

    process = context.Process(target=run, args=(send,))
    process.start()
    send.close()
    try:
        return receive.recv() if receive.poll(limit) else f"wrong   not done after {limit:g} seconds"
    except EOFError:
        return "wrong   the process died"
    finally:
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, help="a Python file with NETS")
    parser.add_argument("--match", default="*", help="pattern of the networks' names")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width of the image")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a network may take")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("networks", options.networks)
    networks = importlib.util.module_from_spec(spec)
    sys.modules["networks"] = networks
    spec.loader.exec_module(networks)
    found: Counter[str] = Counter()
    for name in fnmatch.filter(networks.NETS, options.match):
        start = time.perf_counter()
        line = in_process(networks, name, tuple(options.size), options.limit)
        found[line.split()[0]] += 1
        print(f"{name:36} {time.perf_counter() - start:5.1f} s  {line}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in found.items()))
    return int(found["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
