"""Where a pruned network's saving is lost, and which multiple of channels pays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from records import faults
from rich.console import Console
from scripts import run_script
from toy_onnx import chain, write_chain

from bench.engine.any_network import prune
from bench.errors import BenchError
from bench.export.operator_times import OperatorTime
from bench.jobs import advice
from bench.measure.latency import Effort
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel
from bench.report.console_tables import advice_tables


def test_what_is_lost_is_what_the_share_of_weights_does_not_explain() -> None:
    dense = [
        OperatorTime("a", "Conv", 4.0, 1000),
        OperatorTime("b", "Conv", 2.0, 400),
        OperatorTime("c", "Pad", 1.0, 0),
    ]
    pruned = [
        # A quarter of the weights: 1 ms was to be expected.
        OperatorTime("a", "Conv", 1.5, 250),
        # Half of them: 1 ms again.
        OperatorTime("b", "Conv", 1.9, 200),
        OperatorTime("c", "Pad", 1.0, 0),
        OperatorTime("d", "Conv", 9.0, 10),
    ]
    assert advice.lost_savings(dense, pruned) == [(pruned[1], pytest.approx(0.9)), (pruned[0], pytest.approx(0.5))]
    # As fast as its weights are fewer.
    assert advice.lost_savings(dense, [OperatorTime("a", "Conv", 1.0, 250)]) == []


def test_a_multiple_pays_that_is_measurably_faster_than_the_first() -> None:
    def row(multiple: int, versus: tuple[float, float, float] | None) -> dict[str, Any]:
        return {"multiple": multiple, "PyTorch": {"versus_first": versus}}

    rows = [row(1, None), row(4, (1.2, 1.1, 1.3)), row(8, (1.1, 1.05, 1.2)), row(16, (1.5, 0.9, 2.0))]
    assert advice.paying(rows, "PyTorch") == 4
    assert advice.paying([rows[0], rows[3]], "PyTorch") is None


def test_advice_on_a_pruned_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    model = build_model(spec).eval()
    pruned = prune(model, target={"macs": 0.6}, recalibrate=False, input_size=(24, 32))
    saved = SavedModel(pruned.model.eval(), spec, pruned.plan.kept, {"input_size": [24, 32]})

    # A chain as wide as the network in place of the network: an exporter takes seconds for each.
    def written(path: Path, network: Any, _facts: object) -> Path:
        return write_chain(path, chain(width=next(network.parameters()).shape[0]))

    def pruned_if_possible(*network: Any, round_to: int, **settings: Any) -> Any:
        if round_to == 64:
            raise BenchError("out of reach")
        return prune(*network, round_to=round_to, **settings)

    monkeypatch.setattr(advice, "_written", written)
    monkeypatch.setattr(advice, "prune", pruned_if_possible)
    found = advice.write_advice("net.pt", saved, Effort(0, 10, 20.0), tmp_path / "out", multiples=(1, 4, 64))
    assert json.loads((tmp_path / "out" / "advice.json").read_text()) == found
    assert faults(found) == []
    assert found["macs_kept"] == pytest.approx(pruned.after.macs / pruned.before.macs)
    assert [row["multiple"] for row in found["multiples"]] == [1, 4]
    assert "multiples of 64 are left out: out of reach" in capsys.readouterr().out
    for row in found["multiples"]:
        assert row["macs_kept"] == pytest.approx(found["macs_kept"], abs=0.15)
    shown = Console(width=200)
    with shown.capture() as text:
        for table in advice_tables(found):
            shown.print(table)
    assert "Conv" in text.get() and "PyTorch: " in text.get() and "% of the MACs kept" in text.get()


def test_images_that_are_not_rgb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    saved = SavedModel(build_model(spec).eval(), spec)
    facts = advice.facts_of(saved, "net.pt")
    monkeypatch.setattr(advice, "facts_of", lambda *_: facts.__class__(**{**vars(facts), "input_channels": 4}))
    with pytest.raises(BenchError, match="takes images of 4 channels; advice is for those of 3"):
        advice.advise("net.pt", saved, Effort(0, 10, 1.0))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--ckpt is missing"),
        (["--ckpt", "a.pt", "--format", "onnx"], "--advise writes no network; leave --format out"),
    ],
)
def test_the_command_asks_for_a_network_and_writes_none(flags: list[str], says: str) -> None:
    ended = run_script("bench.commands.export", "--advise", *flags)
    assert (ended.code, says in ended.err) == (2, True), ended.err
