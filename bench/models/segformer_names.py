"""The names of SegFormer's tensors in published files, and what they are called here.

Three programs write them: NVIDIA's (`mit_b0.pth`, `segformer.b0.512x512.ade.160k.pth`), MMSegmentation
(`mit_b0_20220624-7e0fe6dd.pth`, the encoder) and Hugging Face's `transformers` (`pytorch_model.bin`). The encoder is
the same network in all, but query, key and value may be one tensor, and linear layers 1x1 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from bench.errors import BenchError

# The name of a layer here -> in NVIDIA's files, MMSegmentation's and Hugging Face's; s is a stage, b a block of it.
_LAYERS = {
    "backbone.stages.{s}.embedding.conv": (
        *("patch_embed{s}.proj", "layers.{s}.0.projection", "encoder.patch_embeddings.{s}.proj"),
    ),
    "backbone.stages.{s}.embedding.norm": (
        *("patch_embed{s}.norm", "layers.{s}.0.norm", "encoder.patch_embeddings.{s}.layer_norm"),
    ),
    "backbone.stages.{s}.norm": ("norm{s}", "layers.{s}.2", "encoder.layer_norm.{s}"),
    "decoder.project.{s}": ("decode_head.linear_c{s}.proj", None, "decode_head.linear_c.{s}.proj"),
    "decoder.fuse": ("decode_head.linear_fuse.conv", None, "decode_head.linear_fuse"),
    "decoder.norm": ("decode_head.linear_fuse.bn", None, "decode_head.batch_norm"),
    "classifier": ("decode_head.linear_pred", None, "decode_head.classifier"),
    # ImageNet's classifier, and one that each decoder of NVIDIA's has and does not use.
    "": ("head", None, "classifier"),
    " ": ("decode_head.conv_seg", None, None),
}
_BLOCK = ("block{s}.{b}.", "layers.{s}.1.{b}.", "encoder.block.{s}.{b}.")
_LAYERS_OF_A_BLOCK = {
    "norm1": ("norm1", "norm1", "layer_norm_1"),
    "norm2": ("norm2", "norm2", "layer_norm_2"),
    "attention.query": ("attn.q", None, "attention.self.query"),
    "attention.key": (None, None, "attention.self.key"),
    "attention.value": (None, None, "attention.self.value"),
    "attention.key+value": ("attn.kv", None, None),
    "attention.query+key+value": (None, "attn.attn.in_proj", None),
    "attention.reduce": ("attn.sr", "attn.sr", "attention.self.sr"),
    "attention.reduce_norm": ("attn.norm", "attn.norm", "attention.self.layer_norm"),
    "attention.project": ("attn.proj", "attn.attn.out_proj", "attention.output.dense"),
    "ffn.expand": ("mlp.fc1", "ffn.layers.0", "mlp.dense1"),
    "ffn.depthwise": ("mlp.dwconv.dwconv", "ffn.layers.1", "mlp.dwconv.dwconv"),
    "ffn.project": ("mlp.fc2", "ffn.layers.4", "mlp.dense2"),
}
# By program: what stands before the names of an encoder that is part of a whole network, and the number of the first
# stage there.
_BEFORE, _FIRST = (r"(?:backbone\.)?", r"(?:backbone\.)?", r"(?:segformer\.)?"), (1, 0, 0)


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file under the names they have here, without those that have none.

    Args:
        weights: name -> tensor of a file. Names that no program gives, such as those here, stay as they are.

    Raises:
        BenchError: the decoder is MMSegmentation's.
    """
    if any(re.match(r"decode_head\.(convs|fusion_conv)\.", name) for name in weights):
        raise BenchError(
            "its decoder is MMSegmentation's, which has more norms than the published one; pass the file as "
            "`pretrained_backbone`, which takes the encoder alone"
        )
    program = _program(weights)
    if program is None:
        return dict(weights)
    rules = _rules(program)
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, _, kind = name.replace("in_proj_", "in_proj.").rpartition(".")
        own = _own_layer(layer, rules, _FIRST[program])
        if own is None:
            found[name] = tensor
        elif "+" in own:
            within, _, parts = own.rpartition(".")
            names = parts.split("+")
            pieces = zip(names, tensor.chunk(len(names)), strict=True)
            found |= {f"{within}.{part}.{kind}": piece for part, piece in pieces}
        elif own.strip():
            is_linear = own.endswith(("ffn.expand", "ffn.project")) and kind == "weight"
            found[f"{own}.{kind}"] = tensor.flatten(1) if is_linear else tensor
    return found


def _program(weights: Mapping[str, Tensor]) -> int | None:
    """The column of the tables above that names the first layer as a file does; None where none does."""
    firsts = _LAYERS["backbone.stages.{s}.embedding.conv"]
    for program, layer in enumerate(firsts):
        name = layer.format(s=_FIRST[program]) + ".weight"
        if any(re.fullmatch(_BEFORE[program] + re.escape(name), key) for key in weights):
            return program
    return None


def _rules(program: int) -> list[tuple[re.Pattern[str], str]]:
    """Pattern of a layer's name in a program's files -> its name here."""
    named = {own: names[program] for own, names in _LAYERS.items()}
    for own, names in _LAYERS_OF_A_BLOCK.items():
        name = names[program]
        named["backbone.stages.{s}.blocks.{b}." + own] = name and _BLOCK[program] + name
    rules = []
    for own, name in named.items():
        if name:
            before = _BEFORE[program] if own.startswith("backbone") else ""
            pattern = re.escape(name).replace(r"\{s\}", r"(?P<s>\d+)").replace(r"\{b\}", r"(?P<b>\d+)")
            rules.append((re.compile(before + pattern), own))
    return rules


def _own_layer(layer: str, rules: list[tuple[re.Pattern[str], str]], first: int) -> str | None:
    for pattern, own in rules:
        match = pattern.fullmatch(layer)
        if match:
            numbers = match.groupdict()
            return own.format(s=int(numbers.get("s", first)) - first, b=numbers.get("b"))
    return None
