"""Looking at what layers give, without leaving a trace."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.torch_utils.contexts import batch_statistics
from bench.torch_utils.hooks import calls_seen, channels_first, inputs_seen, outputs_seen


def test_outputs_are_seen_before_they_are_changed_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    images = toys.IMAGES
    seen: dict[str, Tensor] = {}
    with outputs_seen(model, ["0", "1"], lambda name, output: seen.update({name: output.clone()})):
        model(images)
    torch.testing.assert_close(seen["0"], model[0](images))
    torch.testing.assert_close(seen["1"], model[1](model[0](images)))
    assert seen["1"].min() < 0


def test_a_layer_that_runs_twice_is_seen_twice() -> None:
    layer = nn.Conv2d(3, 3, 1)
    seen: list[str] = []
    with outputs_seen(nn.Sequential(layer, layer), ["0"], lambda name, _output: seen.append(name)):
        nn.Sequential(layer, layer)(toys.IMAGES)
    assert seen == ["0", "0"]


def test_inputs_are_seen_before_the_layer_runs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).eval()
    seen: list[tuple[str, Tensor]] = []
    with (
        inputs_seen(model, ["1", "0"], lambda name, inputs: seen.append((name, inputs[0].clone()))),
        outputs_seen(model, ["0"], lambda name, output: seen.append((f"{name} gives", output.clone()))),
    ):
        model(toys.IMAGES)
    assert [name for name, _ in seen] == ["0", "0 gives", "1"]
    assert torch.equal(seen[0][1], toys.IMAGES)
    assert torch.equal(seen[2][1], seen[1][1])
    assert seen[2][1].min() < 0


def test_what_a_pre_hook_returns_replaces_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    expected = model(toys.IMAGES)
    with inputs_seen(model, ["0"], lambda name, inputs: torch.zeros_like(inputs[0])):
        assert torch.equal(model(toys.IMAGES), expected)


def test_calls_are_seen_whole_and_their_outputs_can_be_replaced() -> None:
    model = nn.Sequential(nn.MaxPool2d(2, return_indices=True)).eval()
    shapes: dict[str, object] = {}

    def halved(name: str, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> Tensor:
        shapes[name] = (inputs[0].shape, len(output))
        return output[0] / 2

    with calls_seen(model, ["0"], halved):
        found = model(toys.IMAGES)
    assert shapes == {"0": (toys.IMAGES.shape, 2)}
    assert torch.equal(found, nn.functional.max_pool2d(toys.IMAGES, 2) / 2)
    assert isinstance(model(toys.IMAGES), tuple)


def test_hooks_are_gone_even_after_an_error() -> None:
    model = toys.Chain()
    seen: list[str] = []
    with pytest.raises(RuntimeError), outputs_seen(model, ["first.0"], lambda name, _output: seen.append(name)):
        model(torch.zeros(1, 5, 8, 8))
    with pytest.raises(AttributeError), outputs_seen(model, ["first.0", "missing"], lambda name, _output: None):
        pass
    with pytest.raises(RuntimeError), inputs_seen(model, ["second.0"], lambda name, _inputs: seen.append(name)):
        model(torch.zeros(1, 5, 8, 8))
    model(toys.IMAGES)
    assert seen == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 5, 1), (2, 5, 4, 6), (2, 5, 4, 6)),
        (nn.Linear(3, 5), (2, 5), (2, 5, 1)),
        (nn.Linear(3, 5), (2, 7, 5), (2, 5, 7)),
        (nn.LayerNorm(5), (2, 7, 5), (2, 5, 7)),
        (nn.BatchNorm1d(5), (2, 5), (2, 5, 1)),
    ],
)
def test_channels_come_first(layer: nn.Module, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    maps = channels_first(layer, output)
    assert maps.shape == expected
    is_last = isinstance(layer, (nn.Linear, nn.LayerNorm))
    assert torch.equal(maps[:, 3].flatten(), (output[..., 3] if is_last else output[:, 3]).flatten())


def test_batch_statistics_are_used_and_not_kept() -> None:
    model = toys.settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4)))
    model[3].track_running_stats = False
    model[2].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), batch_statistics(model):
        norms = [module.training for module in model]
        features = model[0](toys.IMAGES)
        normed = model[1](features)
        raise KeyError
    assert norms == [False, True, False, True]
    expected = nn.functional.batch_norm(features, None, None, model[1].weight, model[1].bias, training=True)
    torch.testing.assert_close(normed, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [False, False, True, False]
    assert [model[1].track_running_stats, model[3].track_running_stats] == [True, False]
