import copy
import pickle

import pytest
import torch
from torch import fx, nn

from bench.models.adapter import adapt, as_it_was
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.network_form import NetworkForm, form_of


class Strided(nn.Module):
    """Logits at a quarter of the size, of images whose sides are multiples of 8 alone, and an auxiliary head's."""

    def __init__(self, channels=3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, stride=4, padding=1)
        self.head, self.aux = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, images):
        if any(side % 8 for side in images.shape[-2:]):
            raise RuntimeError("sides must be multiples of 8")
        features = self.stem(images)
        return {"out": self.head(features), "aux": self.aux(features), "features": features}


def test_an_adapted_network_gives_logits_of_the_size_of_any_image():
    raw = Strided().eval()
    network = adapt(copy.deepcopy(raw), NetworkForm(pad_to=8))
    images = torch.randn(2, 3, 24, 32)
    expected = nn.functional.interpolate(raw(images)["out"], size=(24, 32), mode="bilinear", align_corners=False)
    assert torch.equal(network(images), expected)
    assert network(torch.randn(1, 3, 21, 30)).shape == (1, 5, 21, 30)
    padded = nn.functional.pad(images[..., :21, :30], (0, 2, 0, 3))
    assert torch.equal(network(images[..., :21, :30]), network(padded)[..., :21, :30])


def test_in_training_it_gives_the_auxiliary_logits_too():
    network = adapt(Strided()).train()
    output = network(torch.zeros(1, 3, 16, 16))
    assert {name: tuple(part.shape) for name, part in output.items()} == {"out": (1, 5, 16, 16), "aux": (1, 5, 16, 16)}


def test_layers_keep_their_names_and_the_network_its_type():
    network = adapt(Strided(), NetworkForm(pad_to=8))
    assert list(network.state_dict()) == list(Strided().state_dict())
    assert isinstance(network, Strided)
    assert type(network).__name__ == "Strided"


def test_copies_and_pickles_are_adapted_and_what_was_is_found_again():
    network = adapt(Strided().eval(), NetworkForm(pad_to=8))
    images = torch.randn(1, 3, 9, 11)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert form_of(other) == NetworkForm(pad_to=8)
        assert torch.equal(other(images), network(images))
    assert type(as_it_was(network)) is Strided
    with pytest.raises(RuntimeError, match="multiples of 8"):
        network(images)


def test_a_class_that_has_to_stay_is_put_into_another():
    graph = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 2, 1, stride=2)))
    network = copy.deepcopy(adapt(graph))
    assert list(network.state_dict()) == ["network.0.weight", "network.0.bias"]
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrap):
    network = Strided()
    assert adapt(wrap(network)) is network


def test_images_have_the_channels_that_a_network_takes():
    network = adapt(Strided(channels=4), NetworkForm(input_channels=4))
    assert blank_image(network, (16, 24)).shape == (1, 4, 16, 24)
    assert blank_image(Strided(), (16, 24)).shape == (1, 3, 16, 24)


def test_a_tracer_meets_one_node_before_and_one_behind_the_network():
    network = adapt(nn.Sequential(nn.Conv2d(3, 2, 1, stride=2)).eval())
    traced = fx.symbolic_trace(network)
    assert [node.op for node in traced.graph.nodes].count("call_function") == 2
    assert traced(torch.zeros(1, 3, 7, 9)).shape == (1, 2, 7, 9)
