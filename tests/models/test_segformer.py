"""SegFormer: equal to its published form, opened from the files of three programs, cut within its heads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.channels.layer_axes import IN, OUT, keep_channels
from bench.errors import BenchError, UsageError
from bench.models import ModelSpec, build_model
from bench.models.backbone import load_backbone
from bench.models.checkpoint import load_model
from bench.models.segformer import Attention, SegFormer

OUTPUTS = 5
SMALL = {"widths": [8, 16, 20, 32], "depths": [1, 2, 1, 1], "decoder_width": 12}


@pytest.fixture(scope="module")
def model() -> SegFormer:
    """A small network whose tensors are all unlike each other and unlike a fresh one's."""
    torch.manual_seed(0)
    made = build_model(ModelSpec("segformer_b0", OUTPUTS, SMALL)).eval()
    for tensor in (*made.parameters(), made.decoder.norm.running_mean):
        tensor.data += 0.1 * torch.randn(tensor.shape)
    return made


@torch.inference_mode()
def logits(model: nn.Module, size: tuple[int, int] = (64, 96)) -> Tensor:
    return model(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)))


# --- what it computes


@torch.inference_mode()
def test_it_is_the_published_network(model: SegFormer) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_labels=OUTPUTS,
        hidden_sizes=SMALL["widths"],
        depths=SMALL["depths"],
        decoder_hidden_size=SMALL["decoder_width"],
    )
    reference = transformers.SegformerForSemanticSegmentation(config).eval()
    weights = hugging_face(model)
    assert weights.keys() == reference.state_dict().keys()
    reference.load_state_dict(weights)
    for size in ((64, 96), (97, 131)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = nn.functional.interpolate(reference(images).logits, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_attention_by_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(width=12, heads=3, reduction=1).eval(), nn.MultiheadAttention(12, 3, batch_first=True)
    layers = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    theirs.out_proj.load_state_dict(ours.project.state_dict())
    tokens = torch.randn(2, 20, 12)
    expected, _ = theirs.eval()(tokens, tokens, tokens)
    torch.testing.assert_close(ours(tokens, (4, 5)), expected)


@torch.inference_mode()
@pytest.mark.parametrize("layers", [("query", "key"), ("value",)])
def test_a_channel_of_every_head_goes_as_if_it_were_zero(layers: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    whole = Attention(width=12, heads=3, reduction=2).eval()
    # The second of four channels of each head.
    gone = torch.tensor([1, 5, 9])
    zeroed, cut = copy.deepcopy(whole), copy.deepcopy(whole)
    stay = torch.tensor([position for position in range(12) if position not in gone])
    for name in layers:
        zeroed.get_submodule(name).weight[gone] = 0
        zeroed.get_submodule(name).bias[gone] = 0
        keep_channels(cut.get_submodule(name), OUT, stay)
    if "value" in layers:
        keep_channels(cut.project, IN, stay)
    tokens = torch.randn(2, 24, 12)
    assert not torch.allclose(whole(tokens, (4, 6)), zeroed(tokens, (4, 6)))
    torch.testing.assert_close(cut(tokens, (4, 6)), zeroed(tokens, (4, 6)))


def test_branches_are_left_out_in_training_alone() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec("segformer_b0", OUTPUTS, SMALL))
    drops = [block.drop.p for stage in model.backbone.stages for block in stage.blocks]
    assert drops == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert torch.equal(logits(model.eval()), logits(model))
    model.dropout.p = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        passes = [model.train()(torch.ones(1, 3, 32, 32)) for _ in range(20)]
    assert any(not torch.equal(passes[0], other) for other in passes)


# --- files of other programs


def renamed(model: SegFormer, names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a network with parts of their names replaced, one after the other."""
    weights = {}
    for name, tensor in model.state_dict().items():
        for stage in range(4):
            for own, other in names.items():
                name = name.replace(own.format(s=stage), other.format(s=stage, t=stage + 1))
        weights[name] = tensor.clone()
    return weights


def hugging_face(model: SegFormer) -> dict[str, Tensor]:
    return renamed(
        model,
        {
            "stages.{s}.embedding.conv": "patch_embeddings.{s}.proj",
            "stages.{s}.embedding.norm": "patch_embeddings.{s}.layer_norm",
            "stages.{s}.norm": "layer_norm.{s}",
            "stages.{s}.blocks.": "block.{s}.",
            ".norm1": ".layer_norm_1",
            ".norm2": ".layer_norm_2",
            "attention.project": "attention.output.dense",
            "attention.query": "attention.self.query",
            "attention.key": "attention.self.key",
            "attention.value": "attention.self.value",
            "attention.reduce_norm": "attention.self.layer_norm",
            "attention.reduce": "attention.self.sr",
            "ffn.expand": "mlp.dense1",
            "ffn.depthwise": "mlp.dwconv.dwconv",
            "ffn.project": "mlp.dense2",
            "backbone.": "segformer.encoder.",
            "decoder.project.{s}": "decode_head.linear_c.{s}.proj",
            "decoder.fuse": "decode_head.linear_fuse",
            "decoder.norm": "decode_head.batch_norm",
            "classifier": "decode_head.classifier",
            "decode_head.decode_head": "decode_head",
        },
    )


def joined(weights: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> dict[str, Tensor]:
    """With tensors of several layers in one: `...query.weight`, `...key.weight` -> `...whole.weight`."""
    found = dict(weights)
    for name in weights:
        before, _, kind = name.partition(parts[0])
        if before != name:
            found[before + whole + kind] = torch.cat([found.pop(before + part + kind) for part in parts])
    return found


def nvidia(model: SegFormer) -> dict[str, Tensor]:
    weights = renamed(
        model,
        {
            "stages.{s}.embedding.conv": "patch_embed{t}.proj",
            "stages.{s}.embedding.norm": "patch_embed{t}.norm",
            "stages.{s}.norm": "norm{t}",
            "stages.{s}.blocks.": "block{t}.",
            "attention.reduce_norm": "attn.norm",
            "attention.reduce": "attn.sr",
            "attention.project": "attn.proj",
            "attention.query": "attn.q",
            "ffn.expand": "mlp.fc1",
            "ffn.depthwise": "mlp.dwconv.dwconv",
            "ffn.project": "mlp.fc2",
            "decoder.project.{s}": "decode_head.linear_c{t}.proj",
            "decoder.fuse": "decode_head.linear_fuse.conv",
            "decoder.norm": "decode_head.linear_fuse.bn",
            "classifier": "decode_head.linear_pred",
        },
    )
    weights["decode_head.conv_seg.weight"] = torch.zeros(OUTPUTS, 12, 1, 1)
    return joined(weights, ("attention.key", "attention.value"), "attn.kv")


def mmsegmentation(model: SegFormer) -> dict[str, Tensor]:
    """The encoder alone, as in its `mit_b0` file."""
    weights = renamed(
        model,
        {
            "backbone.": "",
            "stages.{s}.embedding.conv": "layers.{s}.0.projection",
            "stages.{s}.embedding.norm": "layers.{s}.0.norm",
            "stages.{s}.norm": "layers.{s}.2",
            "stages.{s}.blocks.": "layers.{s}.1.",
            "attention.reduce_norm": "attn.norm",
            "attention.reduce": "attn.sr",
            "attention.project": "attn.attn.out_proj",
            "ffn.expand": "ffn.layers.0",
            "ffn.depthwise": "ffn.layers.1",
            "ffn.project": "ffn.layers.4",
        },
    )
    weights = {name: tensor for name, tensor in weights.items() if name.startswith("layers")}
    weights = joined(weights, ("attention.query.", "attention.key.", "attention.value."), "attn.attn.in_proj_")
    linear = (".ffn.layers.0.weight", ".ffn.layers.4.weight")
    return {name: t[..., None, None] if name.endswith(linear) else t for name, t in weights.items()}


@pytest.mark.parametrize("program", [hugging_face, nvidia])
def test_files_of_whole_networks_open(model: SegFormer, program: Callable, tmp_path: Path) -> None:
    weights = program(model)
    assert not weights.keys() & model.state_dict().keys()
    small = build_model(ModelSpec("segformer_b0", OUTPUTS, SMALL))
    small.load_state_dict(small.own_names(weights))
    assert torch.equal(logits(small.eval()), logits(model))
    # One of the published size, with as many outputs as it has.
    torch.manual_seed(0)
    whole = build_model(ModelSpec("segformer_b0", 19)).eval()
    weights = {f"module.{name}": tensor for name, tensor in program(whole).items()}
    torch.save({"state_dict": weights}, tmp_path / "b0.pth")
    opened = load_model(tmp_path / "b0.pth", name="segformer_b0")
    assert opened.spec.outputs == 19
    assert torch.equal(logits(opened.model), logits(whole))


@pytest.mark.parametrize(
    ("program", "head"), [(hugging_face, "classifier"), (nvidia, "head"), (mmsegmentation, "decode_head.convs.0.conv")]
)
def test_encoders_come_from_files_of_each_program(
    model: SegFormer, program: Callable, head: str, tmp_path: Path
) -> None:
    # ImageNet's classifier, or another decoder, is left.
    weights = program(model) | {f"{head}.weight": torch.zeros(1)}
    torch.save({"state_dict": weights}, tmp_path / "mit_b0.pth")
    other = build_model(ModelSpec("segformer_b0", OUTPUTS, SMALL))
    decoder = copy.deepcopy(other.decoder.state_dict())
    load_backbone(other, str(tmp_path / "mit_b0.pth"))
    loaded = other.backbone.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(torch.equal(tensor, decoder[name]) for name, tensor in other.decoder.state_dict().items())


def test_what_does_not_fit_is_named(model: SegFormer, tmp_path: Path) -> None:
    weights = mmsegmentation(model) | {"decode_head.convs.0.conv.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "mmseg.pth")
    message = r"mmseg\.pth does not fit segformer_b0: its decoder is MMSegmentation's.* pass .*`pretrained_backbone`"
    with pytest.raises(BenchError, match=message) as caught:
        load_model(tmp_path / "mmseg.pth", name="segformer_b0")
    assert "\n" not in str(caught.value)
    torch.save(nvidia(model), tmp_path / "b2.pth")
    with pytest.raises(BenchError, match=r"b2\.pth does not fit segformer_b2: .*conv\.weight is \[8, 3, 7, 7\]"):
        load_model(tmp_path / "b2.pth", name="segformer_b2", outputs=OUTPUTS)
    with pytest.raises(UsageError, match=r"no ImageNet weights of mit_b0 to download"):
        load_backbone(model, "imagenet")
