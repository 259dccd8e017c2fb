"""Writes the tables and draws the pictures of the pages from the records in `results/`: `python -m docs.write_results`.

A page says what it wants in comments, and the script fills what stands between them; nothing of it is typed by hand:

    <!-- table: comparison camvid_equal_macs.json -->
    <!-- end of table -->

    <!-- picture: quick.png of quick.json, data 0123456789abcdef -->
    ![mIoU over MACs and over latency](results/quick.png)

A picture is drawn again where its data are others than those it was drawn from, whose digest the comment has. A name
with a star stands for all records that fit, each with a line that says on what it was measured.

    python -m docs.write_results --gather runs/camvid --into camvid

takes over what a study has written, or a day at a device, under names with hardware and versions in them.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.leaderboard.published import published_numbers
from bench.plan.target import Goal
from bench.report.comparison_rows import baseline_miou, entries, last_stage
from bench.report.comparison_text import comparison_lines, usual_note
from bench.report.summary import markdown_table
from bench.report.summary_record import STAGES
from bench.report.tradeoff_plot import Benchmark, plot_tradeoffs
from bench.report.versus_random import CONTROL, gaps_to_control
from bench.system.console import say
from bench.system.files import digest, make_folder, plain, read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"

Record = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and lines, as text."""

TABLE = re.compile(r"(<!-- table: (\w+) (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
PICTURE = re.compile(r"<!-- picture: (\S+) of (\S+), data (\w+) -->")


def comparison(record: Record) -> Table:
    """A line for each method and target, as the summary of a benchmark has it."""
    return comparison_lines(record["baseline"], record["rows"], full=True)


def methods(record: Record) -> Table:
    """A line for each method, the targets beside each other: MACs kept, and mIoU at each stage, in percent."""
    found = entries(record["rows"])
    stages = [key for key in STAGES if any(entry.values(key) for entry in found)]
    goals = sorted({entry.goal for entry in found}, key=lambda goal: (goal.kind, goal.value))
    short = {"miou_cut": "cut", "miou_recalibrated": "recal.", "miou_repaired": "repaired", "miou_finetuned": "tuned"}
    header = ["method", *(["MACs %", *(short[key] for key in stages)] * len(goals))]
    dense = _percent([baseline_miou(record["baseline"], record["rows"])], 1)
    lines = [["baseline", *(["100", dense, *[""] * (len(stages) - 1)] * len(goals))]]
    for name in dict.fromkeys(entry.name for entry in found):
        line = [name]
        for goal in goals:
            entry = next((entry for entry in found if (entry.name, entry.goal) == (name, goal)), None)
            if entry is None:
                line += ["-"] * (1 + len(stages))
                continue
            line += [_percent(entry.values("macs_kept"), 0), *(_percent(entry.values(key), 1) for key in stages[:-1])]
            line += [_with_spread(entry.values(stages[-1]))]
        lines.append(line)
    return header, lines


def best(record: Record) -> Table:
    """Of each target the method with the highest mIoU in the end, beside the dense network and random channels."""
    rows = record["rows"]
    stage, dense = last_stage(rows), baseline_miou(record["baseline"], rows)
    found = [entry for entry in entries(rows) if entry.values(stage)]
    header = ["target", "best", "params %", "MACs %", f"mIoU {STAGES[stage]}", "points from dense", CONTROL, "speed-up"]
    lines = [["dense", "-", "100.0", "100.0", _percent([dense], 1), "-", "-", "-"]]
    # The mildest first: of channels a target is what goes, of all else what stays.
    order = sorted({entry.goal for entry in found}, key=lambda goal: goal.value, reverse=True)
    for goal in order[::-1] if all(goal.kind == "channels" for goal in order) else order:
        of_goal = [entry for entry in found if entry.goal == goal]
        first = max(of_goal, key=lambda entry: statistics.fmean(entry.values(stage)))
        controls = [entry for entry in of_goal if (entry.method, entry.treatment) == (CONTROL, first.treatment)]
        control = [value for entry in controls for value in entry.values(stage)]
        drop = 100 * (statistics.fmean(first.values(stage)) - dense)
        shares = [_percent(first.values(key), 1) for key in ("parameters_kept", "macs_kept")]
        speedup = f"{statistics.fmean(s.ratio for s in first.speedups):.2f}x" if first.speedups else "-"
        lines.append([str(goal), first.name, *shares, _with_spread(first.values(stage)), f"{drop:+.1f}",
                      _with_spread(control) if control else "-", speedup])  # fmt: skip
    return header, lines


def over_random(record: Record) -> Table:
    """Each method less random channels in the end, paired by seed, in points with a 95 % interval.

    Single seeds, which tell nothing apart, are left out where there are several of others.
    """
    found = gaps_to_control(record["rows"], last_stage(record["rows"]))
    gaps = [gap for gap in found if gap.margin is not None] or found
    header = ["method", "target", "seeds", "points over random", "verdict", "MACs points"]
    return header, [
        [gap.method, str(Goal(gap.target, gap.ratio)), str(gap.seeds), gap.points_text, gap.verdict,
         f"{round(gap.macs_points, 1) + 0:+.1f}"] for gap in gaps
    ]  # fmt: skip


def seconds(record: Record) -> Table:
    """What the cells of each method took: pruning, and all that followed it."""
    spent: dict[str, list[float]] = {}
    for entry in entries(record["rows"]):
        # A row that another run made says nothing of its own time.
        spent.setdefault(entry.name, []).extend(value for value in entry.values("seconds") if value > 0)
    timed = {name: found for name, found in spent.items() if found}
    order = sorted(timed, key=lambda name: statistics.median(timed[name]))
    header = ["method", "cells", "median s", "least", "most"]
    return header, [
        [name, str(len(timed[name])), *(f"{value(timed[name]):.0f}" for value in (statistics.median, min, max))]
        for name in order
    ]


def agreement(record: Record) -> Table:
    """How well each method's scores agree with the oracle's losses, mean over the seeds.

    Below chance and what two halves of the images have in common: the share of the least important channels that a
    method names, the rank correlation, and how much of what the oracle's sets of channels save its own sets save.
    """
    ceiling = record["ceiling"]["absolute"]
    ratios = list(ceiling["overlap"])
    header = ["", f"overlap {ratios[0]}", *ratios[1:], "Spearman", f"gain {ratios[0]}", *ratios[1:]]
    chance = [f"{100 * ceiling['overlap'][ratio]['chance']:.1f}" for ratio in ratios]
    lines = [["chance", *chance, "0.00", *["0.00"] * len(ratios)]]
    most = [f"{100 * ceiling['overlap'][ratio]['mean']:.1f}" for ratio in ratios]
    lines += [["noise ceiling", *most, f"{ceiling['spearman']:.2f}", *[""] * len(ratios)]]
    for method in dict.fromkeys(row["method"] for row in record["rows"]):
        found = [row for row in record["rows"] if row["method"] == method and row["status"] == "done"]

        def mean(value: Callable[[Record], float], found: list[Record] = found) -> float:
            return statistics.fmean(map(value, found))

        overlaps = [100 * mean(lambda row, ratio=ratio: row["absolute"]["overlap"][ratio]["mean"]) for ratio in ratios]
        gains = [mean(lambda row, ratio=ratio: row["set_test"][ratio]["gain"]) for ratio in ratios]
        ranks = mean(lambda row: row["absolute"]["spearman"])
        lines += [[method, *(f"{value:.1f}" for value in overlaps), *(f"{value:.2f}" for value in (ranks, *gains))]]
    return header, lines


def training(record: Record) -> Table:
    """One line of a training: what, from which weights, at which size, how long, and what came of it."""
    config, report = record["config"], record["report"]
    header = ["network", "from", "size", "epochs", "batch", "class weights", "best epoch", "val mIoU %", "test mIoU %",
              "made on"]  # fmt: skip
    size = "x".join(map(str, report["input_size"]))
    scores = [f"{100 * report[split]['miou']:.1f}" for split in ("val", "test")]
    start = "ImageNet" if config.get("pretrained_backbone") else "scratch"
    # Records of the time before there was a choice do not say it.
    weights = config.get("class_weighting", "median") if config["compute_class_weights"] else "none"
    last = config.get("unweighted_epochs", 0)
    weights += f", not in the last {last}" if last else ""
    how = (size, str(report["epochs"]), str(config["batch_size"]), weights, str(report["best_epoch"]))
    return header, [[config["model"], start, *how, *scores, made_on(record)]]


def device(record: Record) -> Table:
    """What a part of `python -m tests.device_day` measured."""
    from tests.device_day.parts import PARTS

    columns = PARTS[record["part"]].columns
    rows = [row for step in record["steps"] for row in step["rows"]]
    shown = [name for name in columns if any(row.get(name) is not None for row in rows)]
    lines = [["-" if row.get(name) is None else format(row[name], columns[name]) for name in shown] for row in rows]
    return [name.replace("_", " ") for name in shown], lines


KINDS: dict[str, Callable[[Record], Table]] = {
    form.__name__: form for form in (comparison, methods, best, over_random, seconds, agreement, training, device)
}
# Of these all records are lines of one table.
TOGETHER = (training,)
PUBLISHED = "published"


def published(dataset: str) -> list[str]:
    """The lines of the table of numbers from papers on a data set; none of them was measured here."""
    header = ["published: method", "network", "split", "size", "mIoU %", "dense %", "MACs %", "source"]
    lines = [
        [*(entry[key] for key in ("method", "network", "split")), "x".join(map(str, entry["input_size"])),
         *(f"{entry[key]:g}" if key in entry else "-" for key in ("miou", "dense", "macs_kept")), entry["source"]]
        for entry in published_numbers(ROOT / "configs" / "published.yaml")
        if entry["dataset"] == dataset
    ]  # fmt: skip
    return markdown_table(header, lines)


def records_of(pattern: str, results: Path = RESULTS) -> list[Path]:
    """The files that a name of a page stands for.

    Raises:
        BenchError: a name without a star that is no file.
    """
    found = sorted(results.glob(pattern))
    if not found and "*" not in pattern:
        raise BenchError(f"there is no record {pattern} in docs/results")
    return found


def made_on(record: Record) -> str:
    """On what a record was measured."""
    how = record.get("provenance") or record["config"]["provenance"]
    threads = f"{how['threads']} thread" + "s" * (how["threads"] > 1)
    return f"{how['gpu'] or how['processor']}, {threads}, torch {how['torch']}"


def table_lines(kind: str, pattern: str, results: Path = RESULTS) -> list[str]:
    """The lines of a table of a page.

    Raises:
        BenchError: no such kind, or no such record.
    """
    if kind == PUBLISHED:
        return published(pattern)
    if kind not in KINDS:
        raise BenchError(f"there is no table '{kind}'; write {', '.join([*KINDS, PUBLISHED])}")
    lines, records = [], {path: read_json(path) for path in records_of(pattern, results)}
    if records and KINDS[kind] in TOGETHER:
        headers, found = zip(*map(KINDS[kind], records.values()), strict=True)
        return markdown_table(headers[0], [line for part in found for line in part])
    for path, record in records.items():
        lines += [""] * bool(lines) + ([f"{path.stem}: {made_on(record)}", ""] if "*" in pattern else [])
        lines += markdown_table(*KINDS[kind](record))
        if note := usual_note(record.get("rows", [])):
            lines += ["", *note]
    return lines or ["Not measured yet."]


def filled(text: str, results: Path = RESULTS) -> str:
    """A page with its tables, and the digests of what its pictures are to show, as the records have them.

    Raises:
        BenchError: a table that cannot be made.
    """

    def table(found: re.Match[str]) -> str:
        begin, kind, pattern, _, end = found.groups()
        return "\n".join([begin + "\n".join(table_lines(kind, pattern, results)), end])

    def picture(found: re.Match[str]) -> str:
        return f"<!-- picture: {found[1]} of {found[2]}, data {data_digest(found[2], results)} -->"

    return PICTURE.sub(picture, TABLE.sub(table, text))


def benchmarks_of(pattern: str, results: Path = RESULTS) -> list[Benchmark]:
    """What a picture shows."""
    return [Benchmark(record["baseline"], record["rows"]) for record in map(read_json, records_of(pattern, results))]


def data_digest(pattern: str, results: Path = RESULTS) -> str:
    """A name for what a picture shows."""
    return digest(plain([[benchmark.baseline, benchmark.rows] for benchmark in benchmarks_of(pattern, results)]))


def pages() -> list[Path]:
    """All pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def gather(folder: Path, into: Path) -> Iterator[Path]:
    """Copies what the benchmarks of a study, or a day at a device, have written, under names that say on what.

    Args:
        folder: of the study, which has one for each benchmark; or the day's.
        into: a folder of the results.

    Yields:
        The files.

    Raises:
        BenchError: there is nothing, or a record names a folder of the machine.
    """
    summaries, days = sorted(folder.glob("*/benchmark_summary.json")), sorted(folder.glob("device_*.json"))
    if not (summaries or days):
        raise BenchError(f"{folder} holds neither */benchmark_summary.json nor device_*.json; run the study first")
    for summary in summaries:
        name = f"{summary.parent.name}_{_hardware(summary)}"
        files = {"benchmark_summary.json": f"{name}.json", "benchmark_summary.csv": f"{name}.csv"}
        files |= {"oracle_agreement.json": f"oracle_{name}.json", "leaderboard.html": f"{name}.html"}
        for file, kept in files.items():
            if (source := summary.with_name(file)).is_file():
                yield _copied(source, into / kept)
    for day in days:
        yield _copied(day, into / f"{day.stem}_{_hardware(day)}.json")


def _hardware(path: Path) -> str:
    """On what a record was measured, as part of a file's name."""
    made = read_json(path)["provenance"]
    place = f"{made['gpu'] or made['processor']} {made['threads']} threads torch {str(made['torch']).partition('+')[0]}"
    return re.sub(r"[^\w.]+", "-", place.lower())


def _copied(source: Path, target: Path) -> Path:
    text = source.read_text(encoding="utf-8")
    found = None if source.suffix == ".html" else re.search(r"(?<=[\" =])(/[\w.-]+){2,}", text)
    if found:
        raise BenchError(f"{source} names a folder of this machine, {found[0]}; give the command relative ones")
    write_text(make_folder(target.parent) / target.name, text)
    return target


def _percent(values: Sequence[float], digits: int) -> str:
    return f"{100 * statistics.fmean(values):.{digits}f}" if values else "-"


def _with_spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return _percent(values, 1) + spread


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="write_results", description=__doc__.splitlines()[0])
    parser.add_argument("--gather", type=Path, metavar="DIR", help="first take over what a study has written")
    parser.add_argument("--into", default="camvid", metavar="NAME", help="the folder in docs/results for that")
    parser.add_argument("--draw", action="store_true", help="draw all pictures again")
    return parser


def main(argv: list[str]) -> int:
    """Fills all pages; 1 where that cannot be."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.gather:
            for path in gather(arguments.gather, RESULTS / arguments.into):
                say(str(path.relative_to(ROOT)))
        for page in pages():
            before = page.read_text(encoding="utf-8")
            after = filled(before, RESULTS)
            for (name, pattern, was), (_, _, now) in zip(PICTURE.findall(before), PICTURE.findall(after), strict=True):
                if arguments.draw or was != now or not (RESULTS / name).is_file():
                    plot_tradeoffs(RESULTS / name, benchmarks_of(pattern, RESULTS))
                    say(f"{name} of {pattern}")
            if after != before:
                write_text(page, after)
                say(str(page.relative_to(ROOT)))
    except BenchError as error:
        sys.stderr.write(f"write_results: error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
