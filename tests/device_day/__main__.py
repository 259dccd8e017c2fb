"""What a quarter of an hour on a GPU is spent on, in one run that resumes: checks, speeds, a baseline.

    python -m tests.device_day --out DIR [--data-root DIR] [--minutes 9] [--parts cuda,training,...] [--device cuda]
        [--baseline segnet] [--workers 8] [--tiny]

Parts, the most valuable first: `cuda` (the tests that need a GPU), `training` (images a second beside a plain loop),
`latency` (dense and pruned), `oracle` (beside a loop over whole passes), `baseline` (as long as time is left, a
training on the CamVid of --data-root, which the next call goes on with). Each writes `device_PART.json` into --out as
soon as a step of it is done; the same call again does what is missing. Nothing is downloaded. --tiny is for trying it
out on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

# Imported by what the parts use; a machine that is lent has not all of them.
NEEDED = {"thop": "ultralytics-thop", "torchvision": "torchvision", "yaml": "pyyaml", "rich": "rich", "tqdm": "tqdm"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="device_day", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--data-root", type=Path, help="CamVid, for the last part")
    parser.add_argument("--baseline", help="the network that the last part trains, by its recipe for CamVid (segnet)")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", default="", help="only these, by name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    return parser


def main(argv: list[str]) -> int:
    """Spends the day; 1 where a step failed, 2 where what is asked for cannot be."""
    arguments = build_parser().parse_args(argv)
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f"device_day: error: not installed: {', '.join(missing)}; pip install them first", file=sys.stderr)
        return 2

    from bench.errors import UsageError
    from bench.system.devices import set_up
    from bench.system.options import RunOptions
    from tests.device_day.day import FAILED, Setting, spend
    from tests.device_day.parts import PARTS, TINY

    chosen = arguments.parts.split(",") if arguments.parts else list(PARTS)
    # Without the folders of the machine.
    flags = [f"--minutes {arguments.minutes:g}", *([f"--parts {arguments.parts}"] if arguments.parts else [])]
    flags += ["--tiny"] if arguments.tiny else []
    flags += [f"--baseline {arguments.baseline}"] if arguments.baseline else []
    try:
        if unknown := [name for name in chosen if name not in PARTS]:
            raise UsageError(f"there is no part {unknown[0]}; write {', '.join(PARTS)}")
        device = set_up(RunOptions(device=arguments.device))
        with tempfile.TemporaryDirectory() as scratch:
            sizes = dict(TINY) if arguments.tiny else {"workers": arguments.workers}
            sizes |= {"baseline": arguments.baseline} if arguments.baseline else {}
            setting = Setting(device, Path(scratch), arguments.out, arguments.data_root, **sizes)
            command = " ".join(["python -m tests.device_day --out DIR", *flags])
            records = spend([PARTS[name] for name in PARTS if name in chosen], setting, arguments.minutes, command)
    except UsageError as error:
        print(f"device_day: error: {error}", file=sys.stderr)
        return 2
    return int(any(record["status"] == FAILED for record in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
