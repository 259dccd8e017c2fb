"""`python -m bench.predict` runs the command of that name."""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.predict import main

if __name__ == "__main__":
    run(main)
