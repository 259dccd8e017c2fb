"""`python -m tests.device_day` at tiny sizes on a CPU, where all but the tests of a GPU can be tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from records import faults

from bench.errors import UsageError
from bench.models.checkpoint import load_model
from bench.system.files import read_json
from tests.device_day import __main__ as command
from tests.device_day import cuda, training
from tests.device_day.day import DONE, FAILED, LEFT, Part, Setting, Step, spend
from tests.device_day.parts import PARTS, TINY


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("day")


def setting(folder: Path, **changes: Any) -> Setting:
    return Setting(torch.device("cpu"), folder / "scratch", folder / "out", **{**TINY, **changes})


def test_a_whole_day_in_small(
    out: Path, tiny_camvid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    # Half of the images are copies.
    monkeypatch.setattr(training, "UNIQUE", TINY["images"] // 2)
    words = ["--out", str(out), "--data-root", str(tiny_camvid), "--device", "cpu", "--tiny"]
    assert command.main(words) == 0
    assert torch.get_num_threads() == threads
    records = {name: read_json(out / f"device_{name}.json") for name in PARTS}
    for record in records.values():
        assert faults(record) == []
        assert record["provenance"]["command"] == "python -m tests.device_day --out DIR --minutes 9 --tiny"
    text = (out / "device_baseline.json").read_text()
    assert str(out) not in text and str(tiny_camvid) not in text
    assert [name for name, record in records.items() if record["status"] != DONE] == ["cuda"]
    assert {step["reason"] for step in records["cuda"]["steps"]} == {"these tests need a GPU"}

    (speed,) = records["training"]["steps"][0]["rows"]
    assert speed["of_plain"] == pytest.approx(speed["images_per_second"] / speed["plain_images_per_second"])
    work = 1e-3 * speed["gflops_per_image"] * speed["images_per_second"]
    assert speed["share_of_peak"] == pytest.approx(work / speed["peak_tflops"])
    latencies = [row for step in records["latency"]["steps"] for row in step["rows"]]
    assert {row["batch"] for row in latencies} == {1, TINY["batch"]}
    assert {row["precision"] for row in latencies} == {"float32", "bfloat16 autocast"}
    for row in latencies:
        assert 2 <= row["macs_gain"] < 2.3
        assert row["arrives"] == pytest.approx(row["speedup"] / row["macs_gain"])
    (oracle,) = records["oracle"]["steps"][0]["rows"]
    assert oracle["largest_relative_difference"] < 1e-6
    assert oracle["speedup"] == pytest.approx(oracle["loop_ms"] / oracle["oracle_ms"])
    (trained,) = records["baseline"]["steps"][0]["rows"]
    assert trained["epochs"] == TINY["most_epochs"] and 0 <= trained["test_miou"] <= 1
    half, best = (load_model(out / "baseline" / name).model.state_dict() for name in ("best_half.pt", "best.pt"))
    assert all(torch.allclose(half[name].float(), best[name].float(), rtol=1e-2, atol=1e-3) for name in best)

    # Again: nothing is measured twice.
    capsys.readouterr()
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "training: " not in said and "oracle: unet_small ..." not in said and "cuda: tests ..." in said
    assert read_json(out / "device_training.json")["steps"] == records["training"]["steps"]


class Diary:
    """A part of three steps, of which the second fails until it is mended."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.is_broken = True

    def part(self, name: str, seconds: list[float], share: float = 1.0) -> Part:
        def work(step: str) -> list[dict[str, Any]]:
            self.ran.append(step)
            seconds[0] += 20
            if step == "second" and self.is_broken:
                raise ValueError("no luck\nand more")
            return [{"step": step, "value": 1.0}]

        names = ("first", "second", "third")
        steps = [Step(step, lambda deadline, step=step: work(step)) for step in names]
        return Part(name, name, share, lambda setting: steps, {"step": "", "value": ".1f"})


def test_what_fails_is_told_and_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diary, now = Diary(), [0.0]
    parts = [diary.part("one", now)]
    (record,) = spend(parts, setting(tmp_path), 9, "a test", lambda: now[0])
    assert (record["status"], diary.ran) == (FAILED, ["first", "second", "third"])
    assert "second: failed: ValueError: no luck" in capsys.readouterr().out
    assert faults(read_json(tmp_path / "out" / "device_one.json")) == []
    diary.is_broken, diary.ran = False, []
    (record,) = spend(parts, setting(tmp_path), 9, "a test", lambda: now[0])
    assert (record["status"], diary.ran) == (DONE, ["second"])
    assert [row["step"] for step in record["steps"] for row in step["rows"]] == ["first", "second", "third"]
    with pytest.raises(UsageError, match=r"device_one\.json is of another device or other sizes"):
        spend(parts, setting(tmp_path, batch=3), 9, "a test")


def test_a_part_keeps_within_its_time_and_the_next_has_what_it_left(tmp_path: Path) -> None:
    diary, now = Diary(), [0.0]
    diary.is_broken = False
    parts = [diary.part("short", now, share=0.4), diary.part("long", now)]
    short, long = spend(parts, setting(tmp_path), 1.5, "a test", lambda: now[0])
    # 36 of 90 seconds are two steps of 20; the other part has the 50 that are left.
    assert [step["status"] for step in short["steps"]] == [DONE, DONE, LEFT]
    assert [step["status"] for step in long["steps"]] == [DONE, DONE, DONE]
    assert (short["status"], long["status"]) == (LEFT, DONE)


def test_what_pytest_reports_becomes_rows(tmp_path: Path) -> None:
    assert "tests/test_on_cuda.py" in cuda.files_with_cuda_tests()
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a" time="0.5"/><testcase name="b" time="1">'
        '<failure message="1 != 2&#10;more">trace</failure></testcase><testcase name="c" time="0">'
        '<skipped message="needs a GPU"/></testcase></testsuite></testsuites>'
    )
    found = [(row["test"], row["outcome"], row["why"]) for row in cuda.outcomes(report)]
    assert found == [("a", "passed", None), ("b", "failed", "1 != 2"), ("c", "skipped", "needs a GPU")]


def test_what_is_missing_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.NEEDED, "no_such_module", "no-such-package")
    assert command.main(["--out", "nowhere"]) == 2
    assert capsys.readouterr().err == "device_day: error: not installed: no-such-package; pip install them first\n"
    monkeypatch.delitem(command.NEEDED, "no_such_module")
    assert command.main(["--out", "nowhere", "--parts", "lunch"]) == 2
    assert "there is no part lunch; write cuda, training" in capsys.readouterr().err
