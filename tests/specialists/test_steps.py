"""The four steps in order on a tiny data set: what they write, what they do not do twice, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from records import faults
from scripts import Outcome, run_script

from bench.models.checkpoint import load_model, save_model
from bench.models.state_dict_file import read_file
from bench.specialists.fusion import read_head
from bench.system import locks
from bench.system.locks import lock_of, try_lock
from bench.train_eval import _Trainer

COMMAND = "bench.specialists.__main__"
GROUPS = "2,*,,0-4|5-10,\n3,,,0-4|5-7|8-10,\n"
FIRST, SECOND = "pruned_class0-4_th60.pt", "pruned_class5-10_th60.pt"


class Place:
    """A folder of specialists, and the steps that work in it."""

    def __init__(self, folder: Path, data: Path):
        self.folder = folder
        self.data = ["--dataset", "camvid", "--data-root", data, "--input-size", "48,64", "--num-workers", 0]
        self.data += ["--device", "cpu", "--threads", 1]

    def run(self, step: str, *flags: object) -> Outcome:
        return run_script(COMMAND, step, "--out-dir", self.folder, *self.data, *flags)

    def group(self, baseline: Path) -> Outcome:
        return self.run("group", "--baseline", baseline)

    def prune(self, *flags: object) -> Outcome:
        few = ["--finetune-epochs", 1, "--batch-size", 4, "--calib-images", 4, "--recalibration-images", 4]
        return self.run("prune", *few, "--params-reduction", 0.6, *flags)

    def fuse(self, *flags: object) -> Outcome:
        few = ["--epochs", 2, "--batch-size", 4, "--head-width", 4, "--threshold", 60]
        return self.run("fuse", *few, *flags)

    def infer(self, *flags: object) -> Outcome:
        return self.run("infer", "--threshold", 60, "--no-latency", *flags)

    @property
    def fused(self) -> Path:
        return self.folder / "devices2_th60"

    def inference(self) -> dict:
        return json.loads((self.fused / "inference.json").read_text())


def done(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return outcome.out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_camvid, shallow_baseline) -> Place:
    """Groups, specialists for two devices, their head, and what was measured; the grouping is one of a hand."""
    place = Place(tmp_path_factory.mktemp("specialists") / "out", tiny_camvid)
    done(place.group(shallow_baseline))
    (place.folder / "deploy_inf.csv").write_text("devices,best,quality,groups,names\n" + GROUPS)
    done(place.prune())
    done(place.fuse())
    done(place.infer("--latency", "--latency-runs", 10, "--latency-warmup", 3, "--no-latency-channels-last"))
    return place


@pytest.fixture
def copied(finished, tmp_path) -> Place:
    return Place(Path(shutil.copytree(finished.folder, tmp_path / "out")), finished.data[3])


def test_classes_are_grouped_for_every_number_of_devices(tmp_path, tiny_camvid, shallow_baseline):
    place = Place(tmp_path, tiny_camvid)
    shown = done(place.run("group", "--baseline", shallow_baseline, "--responses", "logits"))
    assert "classes by their logits" in shown
    rows = list(csv.DictReader((tmp_path / "deploy_inf.csv").open()))
    record = json.loads((tmp_path / "grouping.json").read_text())
    present = len(record["present"])
    assert [int(row["devices"]) for row in rows] == list(range(2, present + 1))
    assert [row["best"] for row in rows].count("*") == 1
    assert len(record["covariance"]) == len(record["distances"]) == present
    assert (tmp_path / "dendrogram.png").is_file()


def test_a_grouping_that_was_changed_by_hand_stays(finished, shallow_baseline):
    before = (finished.folder / "deploy_inf.csv").read_text()
    assert "is there already and stays" in done(finished.group(shallow_baseline))
    assert GROUPS in before == (finished.folder / "deploy_inf.csv").read_text()


def test_specialists_have_the_wanted_size_and_know_their_own_classes_and_the_rest(finished):
    for name, classes in ((FIRST, range(5)), (SECOND, range(5, 11))):
        saved = load_model(finished.folder / name)
        record = json.loads((finished.folder / name).with_suffix(".json").read_text())
        found, wanted = sum(p.numel() for p in saved.model.parameters()), record["parameters"]["wanted"]
        assert found == record["parameters"]["network"]
        # A channel of this tiny network is up to 11 % of it.
        assert abs(found / wanted - 1) < 0.055
        assert saved.spec.outputs == len(classes) + 1
        assert saved.meta["specialist"]["classes"] == record["classes"] == list(classes)
        assert record["pruning"]["method"] == "papm"
        assert record["pruning"]["method_options"]["classes"] == list(classes)
        assert list(record["quality"]["iou"]) == record["names"] and record["names"][-1] == "background"


def test_what_is_done_is_not_done_again(finished):
    files = [FIRST, SECOND, "devices2_th60/fusion_model.pt", "devices2_th60/single_model.pt"]
    before = {name: (finished.folder / name).stat().st_mtime_ns for name in files}
    shown = done(finished.prune()) + done(finished.fuse())
    assert shown.count("is there already") == len(files) and "fine-tuning" not in shown
    assert {name: (finished.folder / name).stat().st_mtime_ns for name in files} == before


def test_what_another_process_is_at_is_left_to_it(finished, monkeypatch):
    lock = try_lock(lock_of(finished.folder / FIRST))
    monkeypatch.setattr(locks.time, "sleep", lambda _seconds: lock.release())
    shown = done(finished.prune())
    assert shown.index(f"{SECOND} is there") < shown.index("other processes are at the specialists of 0-4")
    assert shown.index("waiting for them") < shown.index(f"{FIRST} is there") and not lock.path.exists()


def test_an_inference_says_what_fused_specialists_are_worth(finished):
    record = finished.inference()
    sizes, split = record["sizes"], record["latency"]["split"]
    parts = [name for name in sizes if name.startswith("specialist ") or name == "fusion head"]
    assert len(parts) == 3
    for key in ("parameters", "state_bytes", "file_bytes", "macs"):
        assert sizes["specialists + head"][key] == sum(sizes[name][key] for name in parts)
    total = sizes["specialists + head"]
    assert total["compression"] == pytest.approx(sizes["baseline"]["state_bytes"] / total["state_bytes"])
    assert sizes["single pruned network"]["parameters"] == pytest.approx(total["parameters"], rel=0.03)
    networks = record["latency"]["networks"]
    medians = {name: found["median_ms"] for name, found in networks.items()}
    assert split["slowest"] == max((name for name in parts if name != "fusion head"), key=medians.get)
    times = [networks[name]["times_ms"] for name in parts if name != "fusion head"]
    together = [max(many) + head for *many, head in zip(*times, networks["fusion head"]["times_ms"], strict=True)]
    assert split["total_ms"] == pytest.approx(torch.tensor(together).quantile(0.5).item(), rel=1e-4)
    first = record["specialists"][0]
    assert list(first["iou"]) == first["names"] == ["sky", "building", "pole", "road", "pavement"]
    own = [value for value in first["iou"].values() if value is not None]
    assert first["miou_own"] == pytest.approx(sum(own) / len(own))
    assert first["miou_all"] == pytest.approx(sum(own) / record["quality"]["baseline"]["classes_present"])
    summary = (finished.folder / "specialists_summary.md").read_text()
    assert "slowest specialist + head" in summary and "| bicyclist |" in summary


@pytest.mark.slow
def test_specialists_in_processes_of_their_own_say_the_same_to_the_last_bit(finished):
    here = finished.inference()
    assert "2 processes at once" in done(finished.infer("--split"))
    apart = finished.inference()
    assert apart["logits_sha256"] == here["logits_sha256"] and apart["quality"] == here["quality"]
    assert apart["processes"]["processes"] == 2 and here["processes"] is None
    # Eight float32 channels, or what pruning left of them, at 48x64, from each.
    channels = sum(load_model(finished.folder / name).model.final_conv.in_channels for name in (FIRST, SECOND))
    assert apart["processes"]["sent_bytes_per_image"] == 4 * channels * 48 * 64


def test_an_interrupted_training_of_the_head_goes_on_to_the_same_weights(finished, copied, monkeypatch):
    shutil.rmtree(copied.fused)
    one_epoch = _Trainer.one_epoch

    def interrupted(trainer):
        if trainer.state.epoch == 1:
            raise KeyboardInterrupt
        one_epoch(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "one_epoch", interrupted)
        outcome = copied.fuse("--no-single")
    assert outcome.code == 130 and not (copied.fused / "fusion_model.pt").exists()
    shown = done(copied.fuse("--no-single"))
    assert "fusion head 2/2: loss" in shown and "fusion head 1/2: loss" not in shown
    once, twice = (read_head(place.fused / "fusion_model.pt")["state_dict"] for place in (finished, copied))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert not [*copied.fused.rglob("last.pt")]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def of_another_baseline(path: Path) -> None:
    saved = load_model(path)
    saved.meta["specialist"]["baseline"] = "0" * 64
    save_model(path, saved)


def trained_anew(path: Path) -> None:
    saved = load_model(path)
    with torch.no_grad():
        next(saved.model.parameters()).add_(1)
    save_model(path, saved)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            lambda place: (place.folder / SECOND).unlink(),
            f"{SECOND} is missing; run `python -m bench.specialists prune` with --params-reduction 0.6",
        ),
        (lambda place: truncate(place.folder / SECOND), f"{SECOND} is damaged"),
        (lambda place: shutil.copy(place.fused / "single_model.pt", place.folder / FIRST), "holds no specialist"),
        (
            lambda place: shutil.copy(place.folder / FIRST, place.folder / SECOND),
            "is of the classes 0-4, not of the classes 5-10",
        ),
        (lambda place: of_another_baseline(place.folder / FIRST), "is of baseline 000000000000, not of baseline"),
        (lambda place: trained_anew(place.folder / FIRST), "was not written with pruned_class0-4_th60.pt"),
        (lambda place: (place.fused / "fusion_model.pt").unlink(), "fusion_model.pt is missing"),
        (lambda place: shutil.copy(place.folder / FIRST, place.fused / "fusion_model.pt"), "holds no fusion head"),
        (lambda place: truncate(place.fused / "fusion_model.pt"), "fusion_model.pt is damaged"),
        (lambda place: (place.folder / "grouping.json").unlink(), "grouping.json is missing"),
        (
            lambda place: shutil.copy(place.folder / FIRST, place.fused / "single_model.pt"),
            "holds no network that was pruned to be compared",
        ),
        (lambda place: (place.folder / SECOND).with_suffix(".json").unlink(), f"{SECOND[:-3]}.json is missing; run"),
        (lambda place: (place.fused / "fusion_model.json").write_text("[]"), "was not written with fusion_model.pt"),
    ],
)
def test_a_wrong_file_is_one_line(copied, spoil, fault):
    spoil(copied)
    outcome = copied.infer()
    assert outcome.code == 1 and len(outcome.err.strip().splitlines()) == 1
    assert fault in outcome.err


def test_a_head_of_other_specialists_is_refused(finished, copied):
    done(copied.prune("--finetune-lr", 0.5, "--groups", "0-4"))
    outcome = copied.infer()
    assert outcome.code == 1 and "was trained on another pruned_class0-4_th60.pt" in outcome.err


@pytest.mark.parametrize(
    ("step", "flags", "fault"),
    [
        ("prune", ["--device-counts", "7"], "has no grouping for 7 devices; it has 2, 3"),
        ("prune", ["--groups", "0-3"], "--groups 0-3 is none of the groups: 0-4, 5-10"),
        ("prune", ["--finetune-epochs", "0"], "leaves specialists that know no background"),
        ("prune", ["--opt", "classes=[1]"], "--opt classes= is each specialist's own group"),
        ("fuse", ["--threshold", "177"], "177 is not in (0, 100)"),
        ("group", [], "--baseline is missing"),
    ],
)
def test_what_cannot_be_asked_for(finished, step, flags, fault):
    outcome = finished.run(step, *flags)
    assert outcome.code == 2 and fault in outcome.err and len(outcome.err.strip().splitlines()) == 1


def test_no_step_and_no_such_step():
    assert "name a step: group, prune, fuse, infer" in run_script(COMMAND).err
    assert "not 'grow'" in run_script(COMMAND, "grow").err
    assert done(run_script(COMMAND, "--help")).count("python -m bench.specialists") == 4


def test_records_are_what_their_schemas_say(finished):
    found = [path for path in finished.folder.rglob("*.json") if path.parent.name != "work"]
    assert {path.name for path in found} > {"grouping.json", "fusion_model.json", "single_model.json", "inference.json"}
    assert {path.name: faults(json.loads(path.read_text())) for path in found} == {path.name: [] for path in found}


def test_files_hold_tensors_and_plain_data_alone(finished):
    for path in finished.folder.rglob("*.pt"):
        assert read_file(path)
    content = read_head(finished.fused / "fusion_model.pt")
    assert [found["file"] for found in content["specialists"]] == [FIRST, SECOND]
