"""`python -m bench.datasets.scan` runs the command of that name."""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.scan import main

if __name__ == "__main__":
    run(main)
