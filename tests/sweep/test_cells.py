"""The cells of a sweep: what is done stays done, what fails costs nothing else, what was done joins the summary."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from records import faults
from toy_benchmarks import QUICK, TIMED, UNTIMED, numbers, of_method
from toy_latency import time_by_macs

from bench.errors import BenchError
from bench.measure.options import ScoringOptions
from bench.plan.target import Goal
from bench.pruners.norm.pruner import L1
from bench.pruners.taylor.pruner import Taylor
from bench.report.summary_record import CORRUPTED, BaselineRecord, ComparisonRow, SummaryRecord
from bench.sweep.grid import Job, check_outcome, grid
from bench.system.files import read_json


def test_the_grid_has_every_combination_once():
    some, half, macs = Goal("channels", 0.1), Goal("channels", 0.5), Goal("macs", 0.5)
    jobs = [Job(method, goal, 0) for method in ("a", "b") for goal in (some, half, macs)]
    assert grid(["a", "b"], [some, half, macs], [0]) == jobs
    assert grid(["a", "a"], [some, Goal("channels", 0.10)], [3, 4, 3]) == [Job("a", some, 3), Job("a", some, 4)]


def test_every_cell_has_a_row_and_a_folder_of_its_own(bench):
    rows = bench.run(["l1", "taylor"], [0.12, 0.125], [0, 1])
    cells = [(row["method"], row["ratio"], row["seed"]) for row in rows]
    assert cells == [(method, ratio, seed) for method in ("l1", "taylor") for ratio in (0.12, 0.125) for seed in (0, 1)]
    assert {row["status"] for row in rows} == {"done"}
    folders = [row["folder"] for row in rows]
    assert len(set(folders)) == 8
    for row in rows:
        assert row["folder"].startswith(f"{row['method']}_r{row['ratio']}_s{row['seed']}_")
        assert (bench.out / row["folder"] / "done").is_file()
        assert row["channel_ratio"] == pytest.approx(row["ratio"], abs=0.03)
        assert 0 < row["parameters_kept"] < 1
        assert 0 < row["macs_kept"] < 1
    summary = bench.summary()
    assert numbers(summary["rows"]) == numbers(rows)
    # The types name every field.
    assert list(summary) == list(SummaryRecord.__annotations__)
    assert summary["baseline"].keys() == BaselineRecord.__annotations__.keys() - set(CORRUPTED)
    for row in rows:
        # What is there only after a repair, with controls, and under corruptions.
        others = {key for key in ComparisonRow.__annotations__ if key.endswith(("_repaired", "_corrupted"))}
        others |= {key for key in ComparisonRow.__annotations__ if "scratch" in key}
        assert row.keys() == ComparisonRow.__annotations__.keys() - others - set(CORRUPTED)


def test_other_goals_have_rows_and_folders_that_say_so(fine_bench):
    bench = fine_bench
    run = {"macs": [0.5], "params": [0.4, 0.8], "size": [10**6]}
    rows = [row for kind, values in run.items() for row in bench.run(["l1"], values, kind=kind)]
    assert [(row["target"], row["ratio"], row["status"]) for row in rows] == [
        ("macs", 0.5, "done"), ("params", 0.4, "done"), ("params", 0.8, "done"), ("size", 10**6, "done"),
    ]  # fmt: skip
    assert [row["folder"].rpartition("_")[0] for row in rows] == [
        "l1_macs0.5_s0", "l1_params0.4_s0", "l1_params0.8_s0", "l1_size1000000_s0",
    ]  # fmt: skip
    assert rows[0]["macs_kept"] == pytest.approx(0.5, abs=0.005)
    assert [row["parameters_kept"] for row in rows[1:3]] == pytest.approx([0.4, 0.8], abs=0.005)
    info = json.loads((bench.out / rows[3]["folder"] / "pruning_info.json").read_text())
    assert 990_000 < info["cost"]["after"]["state_bytes"] <= 10**6
    tuned = bench.finetune()
    assert {(row["target"], row["ratio"]) for row in tuned} == {(row["target"], row["ratio"]) for row in rows}
    assert {row["status"] for row in tuned} == {"done"}
    assert "| l1 | size 1MB |" in (bench.out / "finetuned_summary.md").read_text()


def test_a_latency_is_a_goal_of_its_own_for_each_machine(fine_bench, monkeypatch):
    bench = fine_bench
    time_by_macs(monkeypatch)
    rows = [*bench.run(["l1"], [0.6], kind="latency"), *bench.run(["l1"], [12.0], kind="milliseconds")]
    assert [(row["target"], row["ratio"], row["status"]) for row in rows] == [
        ("latency", 0.6, "done"), ("milliseconds", 12.0, "done"),
    ]  # fmt: skip
    assert [row["folder"].rpartition("_")[0] for row in rows] == ["l1_latency0.6_s0", "l1_latency12.0ms_s0"]
    for row in rows:
        assert 1 / row["speedup"] == row["latency_ms"] / row["baseline_latency_ms"] == pytest.approx(0.6, rel=0.02)
    tuned = bench.finetune()
    assert [(row["target"], row["ratio"], row["status"]) for row in tuned] == [
        (row["target"], row["ratio"], "done") for row in rows
    ]
    assert all(row["miou_finetuned"] is not None for row in tuned)
    text = (bench.out / "finetuned_summary.md").read_text()
    assert "| l1 | latency 0.6 |" in text
    assert "| l1 | latency 12ms |" in text
    # What was found on one machine is nothing to another one; a target that is not measured is.
    monkeypatch.setattr("bench.sweep.cells.device_name", lambda device: "another")
    (other,) = bench.run(["l1"], [0.6], kind="latency")
    (third,) = bench.run(["l1"], [0.6], kind="latency", timing=replace(UNTIMED, latency_amp="bf16"))
    assert len({rows[0]["folder"], other["folder"], third["folder"]}) == 3
    folders = {bench.run(["l1"], [0.1])[0]["folder"]}
    monkeypatch.undo()
    assert folders == {bench.run(["l1"], [0.1])[0]["folder"]}


def test_one_score_serves_all_ratios(bench):
    bench.run(["taylor"], [0.1, 0.2, 0.3])
    assert len(list((bench.out / "scores").glob("scores_taylor_*.pt"))) == 1


def test_what_is_done_is_not_done_again(bench, monkeypatch):
    rows = bench.run(["taylor", "random"])
    before = bench.written("pruned_model.pt")
    monkeypatch.setattr(Taylor, "score", pytest.fail)
    assert numbers(bench.run(["taylor", "random"])) == numbers(rows)
    assert numbers(bench.run(["taylor"])) == numbers(rows[:1])
    assert bench.written("pruned_model.pt") == before


@pytest.mark.parametrize("lost", ["pruned_model.pt", "pruning_info.json", "report.json", "done"])
def test_a_job_whose_output_is_gone_is_done_again(bench, lost):
    rows = bench.run(["l1", "random"])
    (folder,) = bench.out.glob("l1_*")
    (folder / lost).unlink()
    before = bench.written("pruned_model.pt")
    assert numbers(bench.run(["l1", "random"])) == numbers(rows)
    after = bench.written("pruned_model.pt")
    assert after.keys() == before.keys() | {folder.name}
    assert of_method(after, "l1") != of_method(before, "l1")
    assert of_method(after, "random") == of_method(before, "random")


def test_what_changes_the_pruning_changes_the_folder(bench):
    bench.run(["taylor"])
    bench.run(["taylor"], settings={"taylor.term": "gamma"})
    bench.run(["taylor"], options=replace(QUICK, protect_first=True))
    bench.run(["taylor"], options=replace(QUICK, calib_images=3))
    bench.run(["taylor"], scoring=ScoringOptions(split="val"))
    assert len(bench.written("pruned_model.pt")) == 5


def fails(self: L1, *_: object) -> None:
    raise ValueError("no norm at hand\nand more")


def test_a_failed_job_costs_no_other_and_only_it_is_done_again(bench, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(L1, "score", fails)
        rows = bench.run(["random", "l1", "taylor"])
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert rows[1]["error"] == "no norm at hand"
    assert bench.summary()["rows"][1]["error"] == "no norm at hand"
    assert "no norm at hand" in (bench.out / "benchmark_summary.md").read_text()
    folder = bench.out / rows[1]["folder"]
    reason = (folder / "failed").read_text()
    assert reason.startswith("no norm at hand\n")
    assert "ValueError: no norm at hand" in reason, "a defect keeps its traceback in the folder"
    assert not (folder / "done").exists()
    assert faults(read_json(folder / "cell.json")) == []
    with pytest.raises(BenchError, match=r"^1 of 3 jobs failed, the first with: no norm at hand; ") as caught:
        check_outcome(rows, bench.out)
    assert caught.value.exit_code == 1

    before = bench.written("pruned_model.pt")
    rows = bench.run(["random", "l1", "taylor"])
    assert {row["status"] for row in rows} == {"done"}
    check_outcome(rows, bench.out)
    after = bench.written("pruned_model.pt")
    assert after.items() > before.items()
    files = {path.name for path in folder.iterdir()}
    assert files == {"cell.json", "done", "pruned_model.pt", "pruning_info.json", "report.json", "worst_images.json"}
    worst, report = (read_json(folder / name) for name in ("worst_images.json", "report.json"))
    assert faults(worst) == [] and worst["sha256"] == report["candidate"]["sha256"]
    assert [image["image"] for image in worst["images"]] == [image["image"] for image in report["worst_images"]]


def test_a_method_option_that_was_wrong_costs_only_its_method(bench, monkeypatch):
    """Mending one method's option leaves the other methods' jobs alone."""

    def score(self: Taylor, *arguments: object) -> Any:
        if self.term == "gamma":
            raise BenchError("no gamma here")
        return unpatched(self, *arguments)

    unpatched = Taylor.score
    monkeypatch.setattr(Taylor, "score", score)
    rows = bench.run(["l1", "taylor"], settings={"taylor.term": "gamma"})
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert (bench.out / rows[1]["folder"] / "failed").read_text() == "no gamma here\n"
    before = bench.written("pruned_model.pt")
    rows = bench.run(["l1", "taylor"], settings={"taylor.term": "gate"})
    assert [row["status"] for row in rows] == ["done", "done"]
    assert bench.written("pruned_model.pt").items() > before.items()


def test_an_unreachable_ratio_fails_with_its_reason(bench):
    rows = bench.run(["slimming"], [0.1, 0.99], options=replace(QUICK, min_keep=0.5))
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert rows[1]["error"].startswith("cannot remove 99.0% of the channels: at most ")
    assert "--min-keep" in rows[1]["error"]


def test_ctrl_c_ends_the_sweep_and_the_job_is_done_again(bench, monkeypatch):
    def interrupted(self: L1, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(L1, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run(["random", "l1", "taylor"])
    assert not bench.written("pruned_model.pt").keys() - of_method(bench.written("done"), "random").keys()
    assert [row["status"] for row in bench.run(["random", "l1", "taylor"])] == ["done"] * 3
    assert bench.written("failed") == {}


@pytest.mark.parametrize("timing", [UNTIMED, TIMED], ids=["untimed", "timed"])
@pytest.mark.parametrize("recalibrate", [True, False])
@pytest.mark.parametrize("evaluate", [True, False])
def test_whatever_is_switched_off_the_summary_is_written(bench, evaluate, recalibrate, timing):
    bench.draws = True
    options = replace(QUICK, evaluate=evaluate, recalibrate=recalibrate)
    rows = bench.run(["l1"], [0.0, 0.2], options=options, timing=timing)
    assert {row["status"] for row in rows} == {"done"}
    assert (rows[1]["miou_cut"] is not None) == evaluate
    assert (rows[1]["miou_recalibrated"] is not None) == (evaluate and recalibrate)
    assert rows[0]["miou_recalibrated"] is None, "nothing was removed"
    assert (rows[1]["latency_ms"] is not None) == timing.latency
    assert rows[0]["parameters_kept"] == 1
    assert rows[1]["baseline_miou"] == bench.summary()["baseline"]["miou"]
    lines = (bench.out / "benchmark_summary.csv").read_text().splitlines()
    assert len(lines) == 3
    assert (bench.out / "benchmark_summary.png").is_file() == evaluate
    assert "| l1 | 0.2 |" in (bench.out / "benchmark_summary.md").read_text()


def test_latency_is_added_to_what_was_measured_without(bench):
    (row,) = bench.run(["l1"], timing=UNTIMED)
    before = bench.written("pruned_model.pt")
    (timed,) = bench.run(["l1"], timing=TIMED)
    assert row["latency_ms"] is None
    assert timed["latency_ms"] > 0
    assert timed["speedup_low"] <= timed["speedup"] <= timed["speedup_high"]
    assert bench.written("pruned_model.pt") == before
    written = bench.written("report.json")
    (again,) = bench.run(["l1"], timing=TIMED)
    assert again["latency_ms"] == timed["latency_ms"]
    assert bench.written("report.json") == written


def test_latency_is_measured_anew_in_another_mode(bench):
    (plain,) = bench.run(["l1"], timing=TIMED)
    before = bench.written("pruned_model.pt")
    mode = replace(TIMED, latency_channels_last=True, latency_batch=2)
    (other,) = bench.run(["l1"], timing=mode)
    assert other["folder"] == plain["folder"]
    assert bench.written("pruned_model.pt") == before
    latency = json.loads((bench.out / other["folder"] / "report.json").read_text())["latency"]
    assert latency["networks"]["candidate"]["memory_format"] == "channels_last"
    assert latency["throughput"]["batch"] == 2
    assert other["latency_ms"] == latency["networks"]["candidate"]["median_ms"]
    # A measurement on the way to a latency is in the same mode, but without what it has no use for.
    short = bench.reference(mode).time(effort=0.5)
    assert (short.throughput, short.networks["baseline"].memory_format) == (None, "channels_last")


def test_reports_of_the_time_before_there_were_modes_are_plain(bench):
    (row,) = bench.run(["l1"], timing=TIMED)
    path = bench.out / row["folder"] / "report.json"
    report = json.loads(path.read_text())
    del report["latency"]["mode"], report["latency"]["throughput"]
    path.write_text(json.dumps(report))
    (again,) = bench.run(["l1"], timing=TIMED)
    assert again["latency_ms"] == row["latency_ms"]
    assert json.loads(path.read_text()) == report


def test_latency_is_measured_anew_where_each_network_was_timed_in_a_format_of_its_own(bench):
    (row,) = bench.run(["l1"], timing=TIMED)
    path = bench.out / row["folder"] / "report.json"
    report = json.loads(path.read_text())
    report["latency"]["networks"]["candidate"]["memory_format"] = "channels_last"
    path.write_text(json.dumps(report))
    # Where nothing is timed, the table says so.
    (kept,) = bench.run(["l1"])
    assert (kept["latency_ms"], kept["latency_format"]) == (row["latency_ms"], "contiguous and channels_last")
    (again,) = bench.run(["l1"], timing=TIMED)
    assert again["latency_format"] == "contiguous"
    assert json.loads(path.read_text())["latency"]["networks"]["candidate"]["memory_format"] == "contiguous"


# --- what earlier runs finished in the folder


def cells(rows: list[dict[str, Any]]) -> list[tuple[str, float, int]]:
    return [(row["method"], row["target_value"], row["seed"]) for row in rows]


def by_folder(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["folder"]: row for row in numbers(rows)}


def test_further_methods_ratios_and_seeds_join_the_summary(bench, capsys):
    bench.run(["random", "l1"], [0.2, 0.1])
    first = bench.summary()["rows"]
    assert cells(bench.run(["l2"], [0.1])) == [("l2", 0.1, 0)], "what was asked for"
    assert "the summary also holds 4 jobs" in capsys.readouterr().out
    # What was asked for first, then by method, target and seed.
    rows = bench.summary()["rows"]
    earlier = [("l1", 0.1, 0), ("l1", 0.2, 0), ("random", 0.1, 0), ("random", 0.2, 0)]
    assert cells(rows) == [("l2", 0.1, 0), *earlier]
    assert by_folder(rows[1:]) == by_folder(first)
    bench.run(["l1"], [0.1], [1, 0])
    assert cells(bench.summary()["rows"]) == [
        ("l1", 0.1, 1), ("l1", 0.1, 0), ("l1", 0.2, 0), ("l2", 0.1, 0), *earlier[2:],
    ]  # fmt: skip
    assert "| l1 | 0.1 | 2 |" in (bench.out / "benchmark_summary.md").read_text()
    lines = (bench.out / "benchmark_summary.csv").read_text().splitlines()
    assert len(lines) == 7


def test_only_cells_of_this_baseline_and_data_join_the_summary(bench, capsys):
    bench.run(["l1"], scoring=ScoringOptions(split="val"))
    bench.run(["l1"])
    assert "left out of the summary" in capsys.readouterr().out
    folder = bench.out / bench.run(["l1"], [0.2])[0]["folder"]
    report = json.loads((folder / "report.json").read_text())
    report["baseline"]["sha256"] = "0" * 64
    (folder / "report.json").write_text(json.dumps(report))
    broken = bench.out / bench.run(["l1"], [0.3])[0]["folder"]
    (broken / "pruning_info.json").write_text("{}")
    failed = bench.out / bench.run(["l1"], [0.4])[0]["folder"]
    (failed / "failed").write_text("out of memory")
    capsys.readouterr()
    bench.run(["random"])
    assert cells(bench.summary()["rows"]) == [("random", 0.1, 0), ("l1", 0.1, 0)]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("left out"))
    for part in (
        "1 of 4 was measured with --split val; pass that too",
        "1 of 4 was pruned from",
        "1 of 4 has records that are not those of a job",
    ):
        assert part in line


def test_a_failed_job_stands_beside_what_was_finished_before(bench, monkeypatch):
    bench.run(["random"])
    with monkeypatch.context() as patch:
        patch.setattr(L1, "score", fails)
        rows = bench.run(["l1"])
    with pytest.raises(BenchError, match=r"^1 of 1 jobs failed"):
        check_outcome(rows, bench.out)
    assert [(row["method"], row["status"]) for row in bench.summary()["rows"]] == [
        ("l1", "failed"),
        ("random", "done"),
    ]
    # Its row says how it was to be made.
    assert bench.summary()["rows"][0]["pruning_options"] == bench.summary()["rows"][1]["pruning_options"]


def test_the_same_method_with_other_options_is_no_further_seed(bench):
    bench.run(["taylor", "random"])
    bench.run(["taylor"], settings={"taylor.term": "gamma"})
    table = (bench.out / "benchmark_summary.md").read_text()
    assert "| taylor term=gamma | 0.1 |" in table and "| taylor term=gate | 0.1 |" in table
    assert "| random | 0.1 |" in table and "seeds" not in table.splitlines()[2]
    bench.run(["random"], options=replace(QUICK, protect_first=True))
    table = (bench.out / "benchmark_summary.md").read_text()
    assert "| random protect_first=true | 0.1 |" in table and "| random | 0.1 |" in table
    assert "Where a line does not say otherwise: protect_first=false." in table


def test_a_latency_of_another_mode_does_not_join_the_summary(bench):
    bench.run(["l1"], timing=TIMED)
    assert bench.summary()["rows"][0]["latency_ms"] > 0
    bench.run(["random"], timing=replace(TIMED, latency_amp="bf16"))
    random, l1 = bench.summary()["rows"]
    assert random["speedup"] is not None and (l1["speedup"], l1["latency_ms"]) == (None, None)
    bench.run(["random"], timing=TIMED)
    assert all(row["speedup"] is not None for row in bench.summary()["rows"])


# --- fine-tuning
