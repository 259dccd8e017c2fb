"""State dicts as wrappers save them: they open when nothing but the wrappers' names is added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
from torchvision.models import resnet18

from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.models.backbone import load_backbone
from bench.models.checkpoint import load_model
from bench.models.wrapper_names import unwrapped

SPEC = ModelSpec("unet_small", 12, {})
Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    torch.manual_seed(3)
    return build_model(SPEC).state_dict()


def opened(path: Path, content: object) -> Weights:
    torch.save(content, path)
    return load_model(path, name="unet_small", outputs=12).model.state_dict()


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def before(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def inside(part: str) -> Callable[[Weights], Weights]:
    """As a wrapper of each second layer names them."""

    def renamed(weights: Weights) -> Weights:
        names = [name.split(".") for name in weights]
        return {
            ".".join([*parts[:-1], part, parts[-1]] if number % 2 else parts): tensor
            for number, (parts, tensor) in enumerate(zip(names, weights.values(), strict=True))
        }

    return renamed


def counted(weights: Weights) -> Weights:
    """As thop leaves them: two counters a layer."""
    layers = {name.rpartition(".")[0] for name in weights} | {""}
    names = [f"{layer}.{kind}".lstrip(".") for layer in sorted(layers) for kind in ("total_ops", "total_params")]
    return {**weights, **{name: torch.zeros(1, dtype=torch.float64) for name in names}}


@pytest.mark.parametrize(
    "wrap",
    [
        *map(before, ("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.")),
        *map(before, ("model._orig_mod.", "net.", "ema.module.", "segmentor.", "_forward_module.model.student.")),
        *map(inside, ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")),
        lambda weights: {"n_averaged": torch.tensor(5), **before("module.")(weights)},
        lambda weights: {"ema.n_averaged": torch.tensor(5), **before("ema.module.")(weights)},
        counted,
        lambda weights: before("module.")(counted(weights)),
        lambda weights: counted(before("model.")(weights)),
    ],
)
def test_names_of_wrappers_are_taken_off(weights, tmp_path, wrap):
    wrapped = wrap(weights)
    assert wrapped.keys() != weights.keys()
    assert same(opened(tmp_path / "a.pt", wrapped), weights)


def test_torchs_own_average_opens(tmp_path):
    model = build_model(SPEC)
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    assert same(opened(tmp_path / "a.pt", average.state_dict()), model.state_dict())


@pytest.mark.parametrize(
    "keys", [["model_state"], ["ema"], ["net"], ["ema", "module"], ["model", "state_dict"], ["mine"]]
)
def test_where_programs_put_a_state_dict(weights, tmp_path, keys):
    content: object = weights
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    assert same(opened(tmp_path / "a.pt", content), weights)


def test_the_usual_name_counts_before_others(weights, tmp_path):
    other = {name: tensor + 1 for name, tensor in weights.items()}
    assert same(opened(tmp_path / "a.pt", {"ema": other, "state_dict": weights}), weights)


def test_several_networks_of_unusual_names_are_refused(weights, tmp_path):
    with pytest.raises(BenchError, match="several networks: mine, yours"):
        opened(tmp_path / "a.pt", {"mine": weights, "yours": weights})


def test_what_is_no_wrappers_is_refused_by_name(weights, tmp_path):
    for content, name in [
        ({**weights, "total.weight": torch.zeros(1)}, "the network has no tensor total.weight"),
        ({**before("model.")(weights), "loss.pos_weight": torch.zeros(1)}, "the network has no tensor loss.pos_weight"),
        ({**before("module.")(weights), "n_classes": torch.zeros(1)}, "the network has no tensor n_classes"),
    ]:
        with pytest.raises(BenchError, match=name):
            opened(tmp_path / "a.pt", content)
    missing = before("model.")(weights)
    del missing["model.bottleneck.conv.0.weight"]
    with pytest.raises(BenchError, match=r"tensor bottleneck\.conv\.0\.weight is missing"):
        opened(tmp_path / "a.pt", missing)


def test_two_tensors_of_one_name_are_refused(weights, tmp_path):
    name = "bottleneck.conv.0.weight"
    content = {**before("_orig_mod.")(weights), name: weights[name]}
    assert same(opened(tmp_path / "a.pt", content), weights)
    with pytest.raises(BenchError, match=f"two tensors that are {name}"):
        opened(tmp_path / "a.pt", {**content, name: weights[name] + 1})


def test_a_networks_own_layers_may_be_called_like_a_wrapper():
    expected = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)}).state_dict()
    assert unwrapped(expected, expected, "") == dict(expected)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in expected.items()}
    assert unwrapped(wrapped, expected, "").keys() == expected.keys()


def test_a_wrapped_backbone_opens_without_its_head(tmp_path):
    torch.manual_seed(0)
    source = resnet18(num_classes=3)
    torch.save({"state_dict": before("module._orig_mod.")(source.state_dict())}, tmp_path / "backbone.pth")
    model = build_model(ModelSpec("resnet18_seg", 12, {}))
    load_backbone(model, str(tmp_path / "backbone.pth"))
    assert torch.equal(model.backbone_layers()["conv1"].weight, source.conv1.weight)


def test_a_wrapped_head_is_found_before_the_outputs_are_counted(weights, tmp_path):
    opened(tmp_path / "a.pt", before("module._orig_mod.")(weights))
    assert load_model(tmp_path / "a.pt", name="unet_small").spec.outputs == 12
    other = load_model(tmp_path / "a.pt", name="unet_small", outputs=7, head="fitting")
    assert other.spec.outputs == 7
    assert torch.equal(other.model.state_dict()["bottleneck.conv.0.weight"], weights["bottleneck.conv.0.weight"])
