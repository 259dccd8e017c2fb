"""`python -m bench.export` runs the command of that name."""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.export import main

if __name__ == "__main__":
    run(main)
