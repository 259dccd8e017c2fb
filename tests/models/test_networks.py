"""Every registered network: its contract, its published size."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split

from bench.errors import UsageError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.segnet import SegNet

OUTPUTS = 12
# Fifty million parameters take seconds to draw: the ResNet-101 networks and all SegFormers but the smallest are only
# built without storage.
LARGE = {name for name in MODELS if "resnet101" in name or name in {f"segformer_b{size}" for size in range(1, 6)}}
SMALL = sorted(set(MODELS) - LARGE)
# Context: 320 to 128 and three times 128 to 128; at each of three skips all to 128 and 3x3 depthwise; classifier.
LITE0_DECODER = (
    (320 * 128 + 256)
    + (3 * 128 * 128 + 256)
    + sum((128 + skip) * 128 + 256 + 9 * 128 + 256 for skip in (112, 40, 24))
    + 129 * 12
)
WITH_AUX = {"deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101"}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build_model(ModelSpec(name, OUTPUTS)) for name in SMALL}


def on_meta(name: str, outputs: int = OUTPUTS) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelSpec(name, outputs))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def outputs_of(prediction: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(prediction.values()) if isinstance(prediction, dict) else [prediction]


@pytest.fixture(
    scope="module", params=[name for name in MODELS if name not in {f"segformer_b{n}" for n in range(2, 6)}]
)
def shapes(request: pytest.FixtureRequest) -> nn.Module:
    """Each network without storage."""
    return on_meta(request.param)


@pytest.mark.parametrize("size", [(33, 33), (64, 64), (97, 131), (360, 480)])
def test_logits_have_the_images_size(shapes: nn.Module, request: pytest.FixtureRequest, size: tuple[int, int]) -> None:
    model, name = shapes, request.node.callspec.params["shapes"]
    images = torch.empty(2, 3, *size, device="meta")
    logits = model.eval()(images)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, OUTPUTS, *size)
    prediction = model.train()(images)
    assert (set(prediction) == {"out", "aux"}) if name in WITH_AUX else isinstance(prediction, Tensor)
    assert all(part.shape == (2, OUTPUTS, *size) for part in outputs_of(prediction))


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(name: str, networks: dict[str, nn.Module]) -> None:
    model = networks[name].eval()
    images = torch.randn(2, 3, 49, 65, generator=torch.Generator().manual_seed(1))
    both = model(images)
    alone = model(images[1:])
    assert both.isfinite().all()
    assert both.std() > 0
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str, networks: dict[str, nn.Module]) -> None:
    model = networks[name].train()
    torch.manual_seed(0)  # of what training leaves out by chance
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, OUTPUTS, (2, 48, 64), generator=torch.Generator().manual_seed(2))
    losses = [nn.functional.cross_entropy(part, labels) for part in outputs_of(model(images))]
    # A fresh classifier knows nothing: its loss is the entropy of a uniform guess, not a multiple of it.
    assert all(loss.item() == pytest.approx(torch.tensor(OUTPUTS).log().item(), rel=0.1) for loss in losses)
    sum(losses).backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    still = [key for key, value in model.named_parameters() if key.endswith("weight") and not value.grad.any()]
    model.zero_grad()
    assert (without, still) == ([], [])


@pytest.mark.parametrize(
    ("name", "outputs", "count"),
    [
        # torchvision's own counts of its files with 21 classes (num_params of the weights' records).
        ("deeplabv3_resnet50", 21, 42_004_074),
        ("deeplabv3_resnet101", 21, 60_996_202),
        ("fcn_resnet50", 21, 35_322_218),
        ("fcn_resnet101", 21, 54_314_346),
        # Backbone without its fully connected layer; 3x3 head with bias and norm; classifier.
        ("resnet18_seg", 12, 11_176_512 + (512 * 128 * 9 + 128 + 2 * 128) + (128 * 12 + 12)),
        ("resnet50_seg", 12, 23_508_032 + (2048 * 512 * 9 + 512 + 2 * 512) + (512 * 12 + 12)),
        ("resnet101_seg", 12, 42_500_160 + (2048 * 512 * 9 + 512 + 2 * 512) + (512 * 12 + 12)),
        # The widely used U-Net of 31,037,698 (2 classes) has 960 biases where ours has 960 norms of two values.
        ("unet", 2, 31_037_698 + 960),
        # What `transformers` builds with the published configurations and 19 classes.
        ("segformer_b0", 19, 3_719_027),
        ("segformer_b1", 19, 13_682_131),
        ("segformer_b2", 19, 27_361_235),
        ("segformer_b3", 19, 47_237_075),
        ("segformer_b4", 19, 64_007_635),
        ("segformer_b5", 19, 84_607_955),
        # EfficientNet-Lite0's 4,652,008 without its last convolution (320 to 1280), that one's norm and its classifier.
        ("efficientnet_lite0_seg", 12, 4_652_008 - 320 * 1280 - 2 * 1280 - 1281 * 1000 + LITE0_DECODER),
    ],
)
def test_parameters_are_as_published(name: str, outputs: int, count: int) -> None:
    assert parameters(on_meta(name, outputs)) == count


def test_segnet_is_vgg16_and_its_mirror_image() -> None:
    model = on_meta("segnet")
    encoder = [getattr(model, f"enc{stage}") for stage in range(1, 6)]
    decoder = [getattr(model, f"dec{stage}") for stage in range(5, 0, -1)]
    convolutions = [
        [layer for stage in half for layer in stage if isinstance(layer, nn.Conv2d)] for half in (encoder, decoder)
    ]
    widths = [[(layer.in_channels, layer.out_channels) for layer in half] for half in convolutions]
    assert len(widths[0]) == 13
    assert len(widths[1]) + 1 == 13  # the classifier is the 13th
    assert widths[1] == [(outer, inner) for inner, outer in reversed(widths[0])][:-1]
    assert (model.classifier.in_channels, model.classifier.kernel_size) == (64, (3, 3))
    assert sum(parameters(stage) for stage in encoder) == 138_365_992 - 123_642_856  # VGG16-BN without its classifier
    assert parameters(model) == pytest.approx(29.45e6, rel=1e-3)


@pytest.mark.parametrize("name", ["segnet", "simple_segnet"])
@torch.inference_mode()
def test_each_unpooling_reverses_its_own_pooling(name: str, networks: dict[str, nn.Module]) -> None:
    model = networks[name].eval()
    assert isinstance(model, SegNet)
    pooled, unpooled = {}, {}
    handles = []
    for stage, (pool, unpool) in enumerate(zip(model.pools, model.unpools, strict=True)):
        handles.append(
            pool.register_forward_hook(
                lambda _, args, result, stage=stage: pooled.setdefault(stage, []).append((args[0].shape, result[1]))
            )
        )
        handles.append(
            unpool.register_forward_hook(
                lambda _, args, result, stage=stage: unpooled.setdefault(stage, []).append((result.shape, args[1]))
            )
        )
    model(torch.randn(1, 3, 45, 59))
    for handle in handles:
        handle.remove()
    assert set(pooled) == set(unpooled) == set(range(model.stages))
    for stage in range(model.stages):
        assert len(pooled[stage]) == len(unpooled[stage]) == 1
        (shape_in, made), (shape_out, used) = pooled[stage][0], unpooled[stage][0]
        assert shape_in == shape_out
        assert used is made


def test_names_of_the_vss_repository() -> None:
    resnet = on_meta("resnet50_seg").state_dict()
    assert {name.split(".")[1] for name in resnet if name.startswith("backbone_net.")} == {"0", "1", "4", "5", "6", "7"}
    assert resnet["backbone_net.4.2.conv3.weight"].shape == (256, 64, 1, 1)
    assert resnet["classifier.0.bias"].shape == (512,)
    assert resnet["classifier.4.weight"].shape == (OUTPUTS, 512, 1, 1)
    stages = [f"{half}{stage}" for half in ("enc", "dec") for stage in range(1, 5)]
    layers = {f"{stage}.{layer}" for stage in stages for layer in (0, 1, 3, 4)} | {"classifier"}
    assert {name.rpartition(".")[0] for name in on_meta("simple_segnet").state_dict()} == layers
    assert on_meta("simple_segnet").dec4[0].weight.shape == (256, 512, 3, 3)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_is_the_whole_network(name: str) -> None:
    model = on_meta(name)
    tensors = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    assert set(model.state_dict()) == tensors
    assert MODELS[name].summary


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"segformer_b0"}))
def test_the_tracer_follows_it_and_every_channel_has_a_norm(name: str, networks: dict[str, nn.Module]) -> None:
    def with_aux_head(model: nn.Module, images: Tensor) -> list[Tensor]:
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return outputs_of(model(images))

    model = networks[name]
    graph = tp.DependencyGraph().build_dependency(model, torch.randn(2, 3, 64, 64), forward_fn=with_aux_head)
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    found = set()
    bare = set()
    names = {module: key for key, module in model.named_modules()}
    for group in graph.get_all_groups(root_module_types=list(convolutions)):
        modules = {dependency.target.module for dependency, _ in group}
        producers = {
            names[dependency.target.module]
            for dependency, _ in group
            if isinstance(dependency.target.module, convolutions)
            and graph.is_out_channel_pruning_fn(dependency.handler)
        }
        found |= producers
        if not any(isinstance(module, nn.BatchNorm2d) for module in modules):
            bare |= producers
    assert found == {key for module, key in names.items() if isinstance(module, convolutions)}
    classifiers = {"classifier", "final_conv", "classifier.4", "aux_classifier.4"}
    assert bare and bare <= classifiers


def test_unet_pads_what_pooling_lost_without_breaking_the_trace(networks: dict[str, nn.Module]) -> None:
    model = build_model(ModelSpec("unet_small", OUTPUTS)).eval()
    images = torch.randn(1, 3, 45, 59)
    graph = tp.DependencyGraph().build_dependency(model, images)
    group = graph.get_pruning_group(model.ups[0][0], tp.prune_conv_out_channels, [0, 3])
    group.prune()
    assert model.ups[0][1].num_features == 62
    assert model.ups[1].conv[0].in_channels == 126
    assert model(images).shape == (1, OUTPUTS, 45, 59)


def test_same_seed_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build_model(ModelSpec("unet_small", 3)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'resnet50seg'; did you mean resnet50_seg"):
        build_model(ModelSpec("resnet50seg", OUTPUTS))
