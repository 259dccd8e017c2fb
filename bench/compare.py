"""Puts several benchmarks into one table, one plot and one page.

python -m bench.compare ./runs/camvid_unet ./runs/camvid_segnet --out ./runs/both
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.entry import run
from bench.cli.parser import Parser


def build_parser() -> Parser:
    """The command line of `python -m bench.compare`."""
    parser = Parser(
        "python -m bench.compare",
        "Prints several benchmarks as one table and writes it as CSV, a row a job, and as Markdown, with a plot of "
        "mIoU over MACs and over latency as PNG and SVG and a page of all of them as HTML. Says in one line where "
        "their numbers do not compare.",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "benchmarks", nargs="+", metavar="DIR", help="--out-dir of benchmark.py, or a summary's JSON file"
    )
    files.add_argument(
        "--out", metavar="FILE", default="comparison", help="the files to write, without ending (default: ./comparison)"
    )
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and compares."""
    arguments = build_parser().parse(argv)

    from bench.jobs.side_by_side import differences, table_of, write_comparison
    from bench.leaderboard.summaries import read_summaries
    from bench.report.console_tables import stacked_table
    from bench.system.console import console, say

    summaries = read_summaries(arguments.benchmarks)
    files = write_comparison(summaries, Path(arguments.out))
    console().print(stacked_table("Benchmarks side by side", *table_of(summaries, full=False)))
    for summary in summaries:
        say(str(summary))
    if apart := differences(summaries):
        say(apart)
    say(f"-> {', '.join(map(str, files))}")


if __name__ == "__main__":
    run(main)
