"""Saved networks: what goes in comes out bit for bit, and what does not belong is refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
from torchvision.models import segmentation

from bench.channels.groups import find_groups, prunable
from bench.channels.layer_axes import IN, OUT, keep_channels
from bench.errors import BenchError, UsageError
from bench.measure.cost import count_parameters
from bench.models import MODELS, ModelEntry, ModelSpec, build_model, new_model
from bench.models.checkpoint import SavedModel, load_model, save_model

SPEC = ModelSpec("unet_small", 12)
IMAGES = torch.randn(2, 3, 49, 65, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = build_model(SPEC)
    # Statistics other than a fresh network's, so that their loss would show.
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


@torch.inference_mode()
def logits_of(model: nn.Module) -> Tensor:
    return model(IMAGES)


def toy(outputs: int) -> nn.Module:
    """A convolution, a depthwise one behind it, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, outputs, 1),
    )


@pytest.fixture
def toy_spec(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setitem(MODELS, "toy", ModelEntry(f"{__name__}:toy", "for these tests"))
    return ModelSpec("toy", 5)


def refused(path: Path, **expected: object) -> str:
    with pytest.raises(BenchError) as caught:
        load_model(path, **expected)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- what goes in comes out


def strides(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.stride() for name, tensor in tensors.items()}


def test_no_network_carries_the_memory_format_it_was_trained_in(toy_spec: ModelSpec, tmp_path: Path) -> None:
    """Of the kernels here, two are as contiguous in one format as in the other: only their strides tell."""
    model = build_model(toy_spec).eval()
    wanted = strides(model.state_dict())
    model.to(memory_format=torch.channels_last)
    assert strides(model.state_dict()) != wanted
    logits = logits_of(model)
    save_model(tmp_path / "saved.pt", SavedModel(model, toy_spec))
    assert strides(torch.load(tmp_path / "saved.pt", weights_only=True)["state_dict"]) == wanted
    # Files of the time before, and those of others, kept the strides of the network.
    content = torch.load(tmp_path / "saved.pt", weights_only=True) | {"state_dict": model.state_dict()}
    torch.save(content, tmp_path / "old.pt")
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    for name in ("saved", "old", "plain"):
        opened = load_model(tmp_path / f"{name}.pt", name="toy", outputs=5).model
        assert strides(opened.state_dict()) == wanted, name
        torch.testing.assert_close(logits_of(opened), logits)
    assert strides(model.state_dict()) != wanted, "the network in hand is left alone"


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnet50", "resnet18_seg", "resnet50_seg", "segnet", "simple_segnet", "unet_small"]
)
def test_round_trip(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(name, 12)
    model = build_model(spec).eval()
    save_model(tmp_path / "best.pt", SavedModel(model, spec, meta={"epoch": 3, "miou": float("nan")}))
    opened = load_model(tmp_path / "best.pt", name=name, outputs=12)
    assert torch.equal(logits_of(opened.model), logits_of(model))
    assert (opened.spec, opened.channels, opened.state) == (spec, {}, {})
    assert opened.meta == {"epoch": 3, "miou": None}
    assert not opened.model.training
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in opened.model.parameters())


def test_the_file_is_plain_and_its_name_is_in_no_byte_of_it(model: nn.Module, tmp_path: Path) -> None:
    save_model(tmp_path / "a.pt", SavedModel(model, SPEC))
    save_model(tmp_path / "b.pt", SavedModel(model, SPEC))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["model"] == {"name": "unet_small", "outputs": 12, "kwargs": {}}
    assert set(content) == {"format", "model", "channels", "state_dict", "meta"}


def test_factory_arguments_and_training_state_come_back(model: nn.Module, tmp_path: Path) -> None:
    spec = ModelSpec("unet_small", 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES).sum().backward()
    optimizer.step()
    state = {"epoch": 4, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    save_model(tmp_path / "last.pt", SavedModel(model, spec, state=state))
    opened = load_model(tmp_path / "last.pt")
    assert opened.state["epoch"] == 4
    assert torch.equal(opened.state["rng"], state["rng"])
    momentum = [entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()]
    loaded = [entry["momentum_buffer"] for entry in opened.state["optimizer"]["state"].values()]
    assert len(loaded) == len(momentum) > 0
    assert all(torch.equal(*pair) for pair in zip(loaded, momentum, strict=True))


@pytest.mark.slow
def test_a_narrowed_network_opens_in_a_new_process(model: nn.Module, tmp_path: Path, project_root: Path) -> None:
    first, norm, second = model.downs[0].conv[0], model.downs[0].conv[1], model.downs[0].conv[3]
    removed = [1, 4, 15]
    kept = torch.tensor([channel for channel in range(16) if channel not in removed])
    with torch.no_grad():
        second.weight[:, removed] = 0
    masked = logits_of(model)
    keep_channels(first, OUT, kept)
    keep_channels(norm, OUT, kept)
    keep_channels(second, IN, kept)
    torch.testing.assert_close(logits_of(model), masked)

    channels = {"downs.0.conv.0": kept.tolist()}
    save_model(tmp_path / "pruned_model.pt", SavedModel(model, SPEC, channels))
    torch.save(
        {"images": IMAGES, "logits": logits_of(model), "threads": torch.get_num_threads()}, tmp_path / "known.pt"
    )
    script = (
        "import sys, torch\n"
        "from bench.models.checkpoint import load_model\n"
        "known = torch.load(sys.argv[2], weights_only=True)\n"
        "torch.set_num_threads(known['threads'])\n"
        "saved = load_model(sys.argv[1])\n"
        "with torch.inference_mode():\n"
        "    assert torch.equal(saved.model(known['images']), known['logits'])\n"
        "print(saved.channels, saved.model.downs[0].conv[0].out_channels)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "pruned_model.pt"), str(tmp_path / "known.pt")]
    result = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{channels} 13"


def test_a_narrowed_depthwise_convolution_opens(toy_spec: ModelSpec, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build_model(toy_spec).eval()
    kept = torch.tensor([0, 2, 5])
    with torch.no_grad():
        model[5].weight[:, [1, 3, 4, 6, 7]] = 0
    masked = logits_of(model)
    for position in (0, 1, 3, 4):
        keep_channels(model[position], OUT, kept)
    keep_channels(model[5], IN, kept)
    torch.testing.assert_close(logits_of(model), masked)
    save_model(tmp_path / "toy.pt", SavedModel(model, toy_spec, {"0": kept.tolist()}))
    opened = load_model(tmp_path / "toy.pt")
    assert torch.equal(logits_of(opened.model), logits_of(model))
    assert (opened.model[3].groups, opened.model[3].in_channels, opened.model[3].out_channels) == (3, 3, 3)
    opened.model.train()(IMAGES).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in opened.model.parameters())


def test_the_opened_network_shares_nothing_with_the_file(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    first = load_model(tmp_path / "plain.pt", name="unet_small", outputs=12).model
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    second = load_model(tmp_path / "plain.pt", name="unet_small", outputs=12).model
    assert torch.equal(logits_of(second), logits_of(model))


# --- plain files


def test_torchvisions_file_opens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=12, aux_loss=True).eval()
    torch.save(net.state_dict(), tmp_path / "fcn.pth")
    opened = load_model(tmp_path / "fcn.pth", name="fcn_resnet50", outputs=12)
    with torch.inference_mode():
        expected = net(IMAGES)
    assert torch.equal(logits_of(opened.model), expected["out"])
    opened.model.train()
    for layer in opened.model.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.Dropout)):
            layer.eval()
    with torch.inference_mode():
        assert torch.equal(opened.model(IMAGES)["aux"], expected["aux"])


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_plain_files(key: str | None, prefix: str, model: nn.Module, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "plain.pt")
    opened = load_model(tmp_path / "plain.pt", name="unet_small", outputs=12)
    assert torch.equal(logits_of(opened.model), logits_of(model))
    assert opened.spec == SPEC


def test_half_precision_and_files_without_counters(model: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pt")
    opened = load_model(tmp_path / "half.pt", name="unet_small", outputs=12).model
    assert {tensor.dtype for tensor in opened.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(logits_of(opened), logits_of(model), rtol=0.02, atol=0.02)


# --- what does not belong


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "best.pt")
    assert "is not a file" in refused(tmp_path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_anywhere(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.save(nn.Linear(3, 3).state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        refused(path, name="unet_small", outputs=12)


@pytest.mark.parametrize("content", [b"", b"hello world", b'{"a": 1}', b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(99)])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert "damaged" in (message := refused(tmp_path / "x.pt")) or "no checkpoint" in message


def test_pickled_network(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "whole.pt")
    assert "save the network's state_dict()" in refused(tmp_path / "whole.pt", name="unet_small", outputs=12)
    torch.save({"model": model}, tmp_path / "whole.pt")
    assert "save the network's state_dict()" in refused(tmp_path / "whole.pt", name="unet_small", outputs=12)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"a": torch.ones(1), 3: torch.ones(1)}])
def test_mappings_without_a_state_dict(content: dict, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert "neither this project's format nor a state_dict" in refused(tmp_path / "x.pt", name="unet", outputs=12)


def test_a_lone_tensor(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "x.pt")
    assert "holds a Tensor" in refused(tmp_path / "x.pt")


def test_other_network_or_class_count(model: nn.Module, tmp_path: Path) -> None:
    save_model(tmp_path / "best.pt", SavedModel(model, SPEC))
    assert "holds a unet_small, not a unet; pass `model=unet_small`" in refused(tmp_path / "best.pt", name="unet")
    assert "has 12 outputs, the data set needs 19" in refused(tmp_path / "best.pt", outputs=19)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    message = refused(tmp_path / "plain.pt", name="unet_small", outputs=19)
    assert "has 12 outputs, the data set needs 19" in message and "train.py `ckpt=" in message
    assert "does not fit segnet: tensor enc1" in refused(tmp_path / "plain.pt", name="segnet", outputs=12)
    assert "say with `model`" in refused(tmp_path / "plain.pt")
    with pytest.raises(UsageError, match="unknown model 'unet_smal'"):
        load_model(tmp_path / "plain.pt", name="unet_smal", outputs=12)


def test_a_format_of_another_time(tmp_path: Path) -> None:
    torch.save({"format": "segmentation-pruning-bench/99"}, tmp_path / "x.pt")
    assert "has format 'segmentation-pruning-bench/99'; this version reads" in refused(tmp_path / "x.pt")


def test_the_first_wrong_tensor_is_named(model: nn.Module, tmp_path: Path) -> None:
    name = "bottleneck.conv.0.weight"
    state = model.state_dict()
    missing = {key: tensor for key, tensor in state.items() if key != name}
    for content, message in [
        (missing, f"does not fit unet_small: tensor {name} is missing"),
        ({**state, name: torch.zeros(128, 64, 1, 1)}, f"{name} is [128, 64, 1, 1], the network has [128, 64, 3, 3]"),
        # A plain file says nothing of pruning: a narrower tensor in it is a mistake.
        ({**state, name: state[name][:9]}, f"{name} is [9, 64, 3, 3], the network has [128, 64, 3, 3]"),
        ({**state, "extra.weight": torch.zeros(1)}, "the network has no tensor extra.weight"),
    ]:
        torch.save(content, tmp_path / "x.pt")
        assert message in refused(tmp_path / "x.pt", name="unet_small", outputs=12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["final_conv.bias", "bottleneck.conv.1.running_mean", "bottleneck.conv.1.running_var"])
@pytest.mark.parametrize("is_plain", [False, True])
def test_weights_and_statistics_that_are_no_numbers(
    name: str, value: float, is_plain: bool, model: nn.Module, tmp_path: Path
) -> None:
    model.state_dict()[name].view(-1)[1] = value
    if is_plain:
        torch.save(model.state_dict(), tmp_path / "x.pt")
    else:
        save_model(tmp_path / "x.pt", SavedModel(model, SPEC))
    assert f"{name} is not finite (1 of " in refused(tmp_path / "x.pt", name="unet_small", outputs=12)


def test_numbers_of_another_kind(model: nn.Module, tmp_path: Path) -> None:
    name, variance = "bottleneck.conv.0.weight", "bottleneck.conv.1.running_var"
    state = model.state_dict()
    for content, message in [
        ({**state, name: state[name].to(torch.complex64)}, f"{name} holds complex numbers, the network float32"),
        ({**state, name: (99 * state[name]).to(torch.int8)}, f"{name} holds whole numbers, the network float32"),
        ({**state, name: state[name].to_sparse()}, f"{name} holds sparse numbers, the network float32"),
        # Finite in the file, but not in the network.
        ({**state, name: state[name].double() * 1e300}, f"{name} is not finite"),
        ({**state, variance: -state[variance]}, f"{variance} is a variance below 0"),
    ]:
        torch.save(content, tmp_path / "x.pt")
        assert message in refused(tmp_path / "x.pt", name="unet_small", outputs=12)
    torch.save({key: tensor.double() for key, tensor in state.items()}, tmp_path / "double.pt")
    opened = load_model(tmp_path / "double.pt", name="unet_small", outputs=12).model
    assert all(torch.equal(tensor, state[key]) for key, tensor in opened.state_dict().items())


def test_a_folder_that_cannot_be_written(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot write"):
        save_model(tmp_path / "missing" / "best.pt", SavedModel(model, SPEC))


def test_a_failed_write_leaves_the_old_file(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pt"
    save_model(path, SavedModel(model, SPEC))
    before = path.read_bytes()

    def full(content: object, file: object) -> None:
        file.write(b"half")
        raise RuntimeError("unexpected pos 960 vs 854\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BenchError, match="is the disk full") as caught:
        save_model(path, SavedModel(model, SPEC))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state_dict": None}, "its state_dict is missing or of another form"),
        ({"state_dict": {"a": 1}}, "its state_dict is missing or of another form"),
        ({"model": None}, "its model is missing or of another form"),
        ({"model": {"name": "unet_small", "outputs": -1}}, "its model is missing"),
        ({"model": {"name": "unet_small", "outputs": "12"}}, "its model is missing"),
        ({"model": {"name": "unet_small", "outputs": 12, "kwargs": {"a": 1}}}, "cannot be built with its arguments"),
        ({"meta": None}, "its meta is missing"),
        ({"meta": {"input_size": "48,64"}}, "its meta's input_size is missing or of another form"),
        ({"channels": []}, "its channels is missing"),
    ],
)
def test_a_file_that_lacks_a_part_is_refused_by_name(tmp_path, shallow_baseline, changes, says):
    content = torch.load(shallow_baseline, weights_only=True)
    torch.save({**content, **changes}, tmp_path / "a.pt")
    with pytest.raises(BenchError, match=says):
        load_model(tmp_path / "a.pt")


OWN = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, outputs, kind):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, outputs, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.side, self.ahead = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        if kind == "drawn":
            self.register_buffer("shift", torch.rand(1, 3, 1, 1), persistent=False)
        elif kind == "plain":
            self.shift = torch.linspace(0, 1, 3).view(1, 3, 1, 1)
        else:
            self.shift = 0.5
        if kind == "tied":
            self.two.weight = self.one.weight
        elif kind.endswith("_norm"):
            self.one = getattr(nn.utils.parametrizations, kind)(self.one)

    def forward(self, images):
        features = self.first(images - self.shift).relu()
        features = features + self.two(features + self.one(features).relu()).relu()
        return self.head(features + self.ahead(self.side(features).relu()))


def own(outputs, kind="tied"):
    return Own(outputs, kind)
"""


@pytest.mark.parametrize("kind", ["drawn", "plain", "tied", "weight_norm", "spectral_norm"])
def test_what_a_state_dict_does_not_say_is_there_again(tmp_path: Path, kind: str) -> None:
    (tmp_path / "own_kinds.py").write_text(OWN)
    model, spec = new_model(ModelSpec(f"{tmp_path}/own_kinds.py:own", 4, {"args": {"kind": kind}}))
    model.eval()
    groups, networks = find_groups(model), [SavedModel(model, spec)]
    if kind != "spectral_norm":  # It changes with every pass in training, and nothing of the network is cut.
        assert "side" in {group.name for group in prunable(groups)}
        plan = toys.random_plan(groups)
        networks.append(SavedModel(toys.cut_copy(model, groups, plan), spec, plan.kept))
    images = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    for saved in networks:
        save_model(tmp_path / "own.pt", saved)
        torch.manual_seed(9)
        opened = load_model(tmp_path / "own.pt").model
        with torch.inference_mode():
            assert torch.equal(opened(images), saved.model(images))
        assert (opened.two.weight is opened.one.weight) == (kind == "tied")
        assert count_parameters(opened) == count_parameters(saved.model)
