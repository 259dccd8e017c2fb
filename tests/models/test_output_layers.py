"""The layers that make a network's outputs: found, counted, begun anew."""

from __future__ import annotations

import pytest
import torch

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
from torchvision.models import segmentation

from bench.errors import BenchError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, read_meta, save_model
from bench.models.output_layers import output_axes, output_layers, outputs_of

HEADS = {
    "deeplabv3_resnet50": "classifier.4, aux_classifier.4",
    "resnet18_seg": "classifier.4",
    "segnet": "classifier",
    "unet_small": "final_conv",
}


@pytest.mark.parametrize(("name", "layers"), HEADS.items())
def test_the_output_layers_are_found(name: str, layers: str) -> None:
    assert output_layers(ModelSpec(name, 12)) == layers


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_some(name: str) -> None:
    assert set(output_axes(ModelSpec(name, 7)).values()) == {0}


def test_outputs_are_counted() -> None:
    weights = build_model(ModelSpec("unet_small", 5)).state_dict()
    assert outputs_of(weights, ModelSpec("unet_small", 12)) == 5
    del weights["final_conv.weight"], weights["final_conv.bias"]
    assert outputs_of(weights, ModelSpec("unet_small", 12)) is None


def test_a_public_checkpoint_opens_with_a_new_head(tmp_path, capsys) -> None:
    net = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    path = tmp_path / "deeplabv3_resnet50_coco.pth"
    torch.save(net.state_dict(), path)
    saved = load_model(path, name="deeplabv3_resnet50", outputs=19, head="fitting")
    assert "classifier.4, aux_classifier.4 of" in (shown := capsys.readouterr().out) and "19 outputs" in shown
    found, wanted = saved.model.state_dict(), net.state_dict()
    heads = {f"{head}.4.{kind}" for head in ("classifier", "aux_classifier") for kind in ("weight", "bias")}
    assert {name for name in wanted if not torch.equal(found[name], wanted[name])} == heads
    assert found["aux_classifier.4.weight"].shape == (19, 256, 1, 1)
    assert 0.005 < found["classifier.4.weight"].std() < 0.02 and not found["classifier.4.bias"].any()
    # Whoever scores it needs the outputs that it has.
    with pytest.raises(BenchError, match=r"has 21 outputs, the data set needs 19; .* train\.py .*`reset_head`"):
        load_model(path, name="deeplabv3_resnet50", outputs=19)
    assert load_model(path, name="deeplabv3_resnet50").spec.outputs == 21
    assert read_meta(path) == {}


def test_only_the_output_layers_may_differ(tmp_path, capsys) -> None:
    weights = build_model(ModelSpec("unet_small", 5)).state_dict()
    weights["bottleneck.conv.0.weight"] = torch.zeros(128, 64, 1, 1)
    torch.save(weights, tmp_path / "x.pt")
    with pytest.raises(BenchError, match=r"bottleneck.conv.0.weight is \[128, 64, 1, 1\]"):
        load_model(tmp_path / "x.pt", name="unet_small", outputs=12, head="fitting")
    assert capsys.readouterr().out == ""


def test_a_pruned_network_gets_a_head_of_its_width(shallow_baseline, tmp_path, call, tiny_camvid) -> None:
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0]
    flags = ["--ckpt", shallow_baseline, "--method", "l1", "--global-ratio", 0.5, "--no-latency", "--no-evaluate"]
    assert call("prune.py", *data, *flags, "--save", tmp_path / "pruned").code == 0
    path = tmp_path / "pruned" / "pruned_model.pt"
    before, after = load_model(path), load_model(path, outputs=19, head="fresh")
    width = before.model.final_conv.in_channels
    assert width < 8
    assert after.model.final_conv.weight.shape == (19, width, 1, 1)
    assert (after.spec.outputs, after.channels) == (19, before.channels)
    assert after.model(torch.zeros(1, 3, 48, 64)).shape == (1, 19, 48, 64)
    # The outputs of this project's own files are never changed unasked.
    with pytest.raises(BenchError, match="has 12 outputs, the data set needs 19"):
        load_model(path, outputs=19, head="fitting")


def test_a_file_without_a_head_opens_where_none_is_needed(tmp_path) -> None:
    spec = ModelSpec("unet_small", 12)
    model = build_model(spec)
    save_model(tmp_path / "same.pt", SavedModel(model, spec))
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("final_conv")}
    torch.save(weights, tmp_path / "headless.pt")
    assert load_model(tmp_path / "headless.pt", name="unet_small", head="fitting").spec.outputs == 1
    with pytest.raises(BenchError, match=r"tensor final_conv\.weight is missing"):
        load_model(tmp_path / "headless.pt", name="unet_small")
