"""Pages say what the records say: tables are filled and pictures drawn by `python -m docs.write_results`."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from docs import write_results
from docs.write_results import KINDS, PICTURE, RESULTS, ROOT, TABLE, filled, gather, pages, records_of, table_lines

AGAIN = "run: python -m docs.write_results"
TABLES = [(page, *found) for page in pages() for found in TABLE.findall(page.read_text(encoding="utf-8"))]
STAGES = {"mIoU cut": "miou_cut", "mIoU recal.": "miou_recalibrated", "mIoU repaired": "miou_repaired",
          "mIoU tuned": "miou_finetuned", "params %": "parameters_kept", "MACs %": "macs_kept"}  # fmt: skip


def record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_is_as_the_script_writes_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, AGAIN
    assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(TABLE.findall(text))
    assert text.count("<!-- picture:") == len(PICTURE.findall(text))
    assert [name for name, _, _ in PICTURE.findall(text) if not (RESULTS / name).is_file()] == [], AGAIN


def test_the_first_table_and_picture_are_among_them() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8")
    assert next(found[1:3] for found in TABLE.findall(first)) == ("comparison", "quick.json")
    assert PICTURE.findall(first)[0][:2] == ("quick.png", "quick.json")
    assert len(TABLES) >= 15


def test_every_record_of_a_table_says_how_it_was_made() -> None:
    for _, _, kind, pattern, _, _ in TABLES:
        for path in [] if kind == "published" else records_of(pattern):
            content = json.loads(path.read_text(encoding="utf-8"))
            made = content.get("provenance") or content["config"]["provenance"]
            assert made["command"] and made["processor"] and made["torch"], path


def test_every_number_of_a_comparison_is_the_mean_of_its_rows() -> None:
    checked = 0
    for _, _, kind, pattern, body, _ in TABLES:
        if kind != "comparison" or not records_of(pattern) or "*" in pattern:
            continue
        rows = record(pattern)["rows"]
        header, _, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines())
        for line in lines:
            shown = dict(zip(header, line, strict=True))
            method, *how = shown["method"].split()
            target = shown.get("ratio") or shown["target"]
            made = [
                row
                for row in rows
                if row["method"] == method
                and target in (str(row["ratio"]), f"{row.get('target')} {row['ratio']}")
                and all(part.rstrip(",").split("=")[1] in json.dumps(row) for part in how)
            ]
            assert made, (pattern, line)
            for column, key in STAGES.items():
                if column in shown:
                    mean = 100 * statistics.fmean(row[key] for row in made)
                    assert float(shown[column].split()[0]) == pytest.approx(mean, abs=0.0501), (pattern, line, column)
                    checked += 1
    assert checked > 100


def test_a_number_that_was_typed_is_put_right() -> None:
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    assert "| 62.3 |" in text
    assert filled(text.replace("| 62.3 |", "| 99.9 |")) == text


def test_what_cannot_be_made_is_told() -> None:
    with pytest.raises(BenchError, match="there is no table 'pie'; write comparison, methods, best"):
        table_lines("pie", "quick.json")
    with pytest.raises(BenchError, match=r"there is no record no_such\.json in docs/results"):
        table_lines("best", "no_such.json")
    assert table_lines("best", "no_such_*.json") == ["Not measured yet."]


def test_the_best_of_each_target_is_shown_beside_random_channels() -> None:
    header, lines = KINDS["best"](record("camvid_equal_macs.json"))
    assert header == ["target", "best", "params %", "MACs %", "mIoU after recalibration", "points from dense", "random",
                      "speed-up"]  # fmt: skip
    assert lines == [
        ["dense", "-", "100.0", "100.0", "42.6", "-", "-", "-"],
        ["macs 0.75", "taylor", "51.2", "75.0", "39.3", "-3.2", "34.9", "-"],
        ["macs 0.5", "l1", "48.4", "50.0", "22.5", "-20.1", "21.0", "-"],
    ]
    # Of channels a target is what goes.
    assert [line[0] for line in KINDS["best"](record("quick.json"))[1]] == ["dense", "0.3", "0.5"]


def test_the_random_channels_beside_the_best_were_treated_as_it_was() -> None:
    made = record("camvid_equal_macs.json")
    rows = [{**row, "pruning_options": {"repair": "none"}} for row in made["rows"]]
    others = [
        {**row, "miou_recalibrated": 0.0, "pruning_options": {"repair": "bias"}}
        for row in rows
        if row["method"] == "random"
    ]
    assert KINDS["best"]({**made, "rows": rows + others}) == KINDS["best"](made)


def test_gaps_to_random_channels_and_what_cells_take() -> None:
    made = record("camvid_unet_small_methods.json")
    found = {(line[0], line[1]): line for line in KINDS["over_random"](made)[1]}
    rows = {(row["method"], row["ratio"], row["seed"]): row["miou_finetuned"] for row in made["rows"]}
    points = statistics.fmean(100 * (rows["taylor", 0.3, seed] - rows["random", 0.3, seed]) for seed in (0, 1, 2))
    method, target, seeds, shown, verdict, _ = found["taylor", "0.3"]
    assert (method, target, seeds, verdict) == ("taylor", "0.3", "3", "ahead")
    assert float(shown.split()[0]) == pytest.approx(points, abs=0.0501)
    spent = {line[0]: line[1:] for line in KINDS["seconds"](made)[1]}
    took = [row["seconds"] for row in made["rows"] if row["method"] == "obs" or row["method"] == "l1"]
    assert spent["l1"] == [str(len(took)), *(f"{value(took):.0f}" for value in (statistics.median, min, max))]


def test_a_day_at_a_device_becomes_a_table() -> None:
    rows = [{"model": "unet", "groups": 22, "channels": 88, "oracle_ms": 1.5, "loop_ms": 3.0, "speedup": 2.0}]
    step = {"name": "unet", "status": "done", "reason": None, "seconds": 1.0, "rows": rows}
    header, lines = KINDS["device"]({"part": "oracle", "steps": [step]})
    assert header == ["model", "groups", "channels", "oracle ms", "loop ms", "speedup"]
    assert lines == [["unet", "22", "88", "1.50", "3.00", "2.00"]]


def test_what_a_study_wrote_is_taken_over_under_a_name_that_says_on_what(tmp_path: Path) -> None:
    made = record("quick.json")
    (tmp_path / "study" / "small").mkdir(parents=True)
    summary = tmp_path / "study" / "small" / "benchmark_summary.json"
    summary.write_text(json.dumps(made))
    summary.with_suffix(".csv").write_text("method\n")
    (tmp_path / "study" / "device_oracle.json").write_text(json.dumps({"provenance": made["provenance"]}))
    name = "amd-epyc-1-threads-torch-2.13.0"
    found = [path.name for path in gather(tmp_path / "study", tmp_path / "results")]
    assert found == [f"small_{name}.json", f"small_{name}.csv", f"device_oracle_{name}.json"]
    lines = table_lines("best", "small_*.json", tmp_path / "results")
    assert lines[0] == f"small_{name}: AMD EPYC, 1 thread, torch 2.13.0+cpu" and lines[2].startswith("| target |")

    foreign = copy.deepcopy(made)
    foreign["provenance"]["command"] += " --data-root /home/someone/camvid"
    summary.write_text(json.dumps(foreign))
    with pytest.raises(BenchError, match=r"names a folder of this machine, /home/someone/camvid; give"):
        list(gather(tmp_path / "study", tmp_path / "results"))
    with pytest.raises(BenchError, match="run the study first"):
        list(gather(tmp_path / "nothing", tmp_path / "results"))


def test_a_picture_is_drawn_when_its_data_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    (results / "few.json").write_text(json.dumps(record("camvid_equal_macs.json")))
    page = tmp_path / "README.md"
    page.write_text("<!-- picture: few.png of few.json, data 0 -->\n![few](few.png)\n")
    monkeypatch.setattr(write_results, "ROOT", tmp_path)
    monkeypatch.setattr(write_results, "RESULTS", results)
    drawn = []
    monkeypatch.setattr(write_results, "plot_tradeoffs", lambda path, shown: drawn.append(shown) or path.touch())
    assert write_results.main([]) == 0
    ((benchmark,),) = drawn
    assert len(benchmark.rows) == 6 and "few.png of few.json" in capsys.readouterr().out
    assert write_results.main([]) == 0
    assert len(drawn) == 1, "nothing changed"
    changed = record("camvid_equal_macs.json")
    changed["rows"][0]["miou_cut"] = 0.5
    (results / "few.json").write_text(json.dumps(changed))
    assert write_results.main([]) == 0
    assert len(drawn) == 2
    page.write_text("<!-- table: best gone.json -->\n<!-- end of table -->\n")
    assert write_results.main([]) == 1
    assert "write_results: error: there is no record gone.json" in capsys.readouterr().err
