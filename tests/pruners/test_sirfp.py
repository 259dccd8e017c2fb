"""SIRFP: the known matrices, the slow formula on random maps, its invariances, and its two pools."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError, UsageError
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.sirfp.redundancy import (
    FeatureAverages,
    add_similarity,
    edge_strength,
    matched,
    removal_scores,
)

VOID = 3
Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(2, 3, 16, 24, generator=generator), torch.randint(0, 4, (2, 16, 24), generator=generator))
        for _ in range(count)
    ]


def scores_of(model: nn.Module, data: Sequence[Batch], **options: object) -> Scores:
    groups = prunable(find_groups(model))
    return make_pruner("sirfp", options).score(model, groups, Calibration(data, VOID, 0))


@torch.no_grad()
def layer_scores(model: nn.Module, names: set[str], data: Sequence[Batch], **options: object) -> Scores:
    return make_pruner("sirfp", options).layer_scores(model, names, Calibration(data, VOID, 0))


def similarity(maps: Tensor) -> Tensor:
    total = maps.new_zeros(len(maps), len(maps))
    add_similarity(total, maps)
    return total.triu() + total.triu(1).T


# --- the formula, slowly


def slow_similarity(maps: Tensor) -> Tensor:
    scaled = [one / (one.abs().sum() + 1e-5) for one in maps]
    return torch.stack([torch.stack([(one * other).sum() for other in scaled]) for one in scaled])


def slow_edges(maps: Tensor) -> Tensor:
    sobel = torch.tensor([[-0.5, 0, 0.5], [-1, 0, 1], [-0.5, 0, 0.5]], dtype=maps.dtype)
    strengths = []
    for one in maps:
        along_x, along_y = (conv2d(one[None, None], k[None, None], padding=1)[0, 0] for k in (sobel, sobel.T))
        length = (along_x**2 + along_y**2).sqrt()
        strengths.append(((length - length.mean()) ** 2).mean().sqrt())
    return torch.stack(strengths)


def slow_greedy(redundancy: Tensor, bonus: Tensor) -> Tensor:
    alive, scores = list(range(len(redundancy))), bonus.double().clone()
    while alive:
        sums = redundancy[alive][:, alive].sum(dim=1)
        worst = int(sums.argmax())
        scores[alive[worst]] -= sums[worst]
        del alive[worst]
    return scores


def slow_scores(features: Sequence[Tensor], edge_weight: float, decay: float = 0.999, area: float = 1) -> Tensor:
    """Scores of one layer whose batches of maps are given."""
    redundancy, edges = 0.0, 0.0
    for maps in features:
        mean = torch.stack([slow_similarity(one.flatten(1)) for one in maps]).mean(0)
        redundancy = decay * redundancy + (1 - decay) * mean
        edges = decay * edges + (1 - decay) * torch.stack([slow_edges(one) for one in maps]).mean(0)
    start = 1 - decay ** len(features)
    return slow_greedy((redundancy / start).abs() * area, edge_weight * edges / start)


# --- the pure functions


def test_the_known_matrices() -> None:
    first = torch.tensor([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]], dtype=torch.float64)
    torch.testing.assert_close(
        removal_scores(first, torch.zeros(3)), torch.tensor([-1.1, -2.1, -1.0], dtype=torch.float64)
    )
    hub = torch.eye(4, dtype=torch.float64)
    hub[0, 1] = hub[1, 0] = 0.9
    hub[0, 2] = hub[2, 0] = 0.8
    torch.testing.assert_close(
        removal_scores(hub, torch.zeros(4)), torch.tensor([-2.7, -1, -1, -1], dtype=torch.float64)
    )
    # Sums that are not updated would punish the hub's neighbours for a channel that is gone.
    torch.testing.assert_close(-hub.sum(1), torch.tensor([-2.7, -1.9, -1.8, -1], dtype=torch.float64))
    bonus = torch.tensor([0.5, 0, 0.25, 2])
    torch.testing.assert_close(
        removal_scores(hub, bonus), torch.tensor([-2.2, -1, -0.75, 1], dtype=torch.float64)
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 17])
def test_removals_equal_the_slow_ones(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    matrix = torch.rand(channels, channels, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    bonus = torch.rand(channels, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(removal_scores(matrix, bonus), slow_greedy(matrix, bonus))
    plain = removal_scores(matrix, torch.zeros(channels))
    # Sums only shrink, so in the order of removal the scores rise: the most redundant channel has the lowest.
    assert int(plain.argmin()) == int(matrix.sum(1).argmax())
    assert plain.max() <= -matrix.diagonal().min() + 1e-12


@pytest.mark.parametrize("channels", [3, 64, 65, 131])
def test_similarities_equal_the_slow_ones(channels: int) -> None:
    maps = torch.randn(channels, 30, generator=torch.Generator().manual_seed(1))
    direct = maps / (maps.abs().sum(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(similarity(maps), direct @ direct.T, rtol=1e-5, atol=1e-8)
    if channels == 3:
        torch.testing.assert_close(similarity(maps), slow_similarity(maps), rtol=1e-5, atol=1e-8)
    assert torch.equal(similarity(maps), similarity(maps).T)


@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 1, 1), (2, 1, 6), (40, 100, 90)])
def test_edges_equal_the_slow_ones(shape: tuple[int, int, int]) -> None:
    # The last shape does not fit into the filter's scratch memory at once.
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.3
    torch.testing.assert_close(edge_strength(maps), slow_edges(maps), rtol=1e-5, atol=1e-6)
    assert edge_strength(maps.permute(0, 2, 1)).tolist() == pytest.approx(edge_strength(maps).tolist(), rel=1e-5)


def test_a_constant_map_has_edges_at_the_padding() -> None:
    assert edge_strength(torch.full((1, 8, 8), 3.0)).item() == pytest.approx(3.00, abs=0.005)


@pytest.mark.parametrize("options", [{"edge_weight": 0.0}, {"edge_weight": 0.4}, {"decay": 0.5, "area": 35}])
def test_averages_equal_the_slow_ones(options: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(images, 6, 7, 5, generator=generator) for images in (2, 2, 1)]
    weight, decay = options.get("edge_weight", 0.4), options.get("decay", 0.999)
    averages = FeatureAverages(decay, edges=weight > 0, per_area="area" in options)
    for batch in features:
        averages.add(batch)
    found = removal_scores(averages.redundancy(), weight * averages.edges())
    torch.testing.assert_close(
        found, slow_scores(features, weight, decay, options.get("area", 1)), rtol=1e-4, atol=1e-6
    )


def test_the_average_does_not_start_at_zero() -> None:
    features = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    once, often = (FeatureAverages(0.999, edges=True, per_area=False) for _ in range(2))
    once.add(features)
    for _ in range(5):
        often.add(features)
    torch.testing.assert_close(often.redundancy(), once.redundancy(), rtol=1e-4, atol=0)
    torch.testing.assert_close(often.edges(), once.edges())
    torch.testing.assert_close(once.edges(), torch.stack([slow_edges(maps) for maps in features]).mean(0))
    last = FeatureAverages(0.0, edges=False, per_area=False)
    last.add(torch.ones(2, 4, 6, 5))
    last.add(features)
    torch.testing.assert_close(last.redundancy(), once.redundancy(), rtol=1e-4, atol=1e-9)
    assert last.edges().tolist() == [0] * 4


def test_scaling_and_permuting_leave_similarities_alone_and_a_constant_does_not() -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(5, 12, 10, generator=generator)
    before = similarity(maps.flatten(1)).abs()
    factors = torch.tensor([2.0, -3.0, 0.5, -1.0, 7.0])[:, None, None]
    assert (similarity((maps * factors).flatten(1)).abs() - before).abs().max() < 1e-8
    shuffled = maps.flatten(1)[:, torch.randperm(120, generator=generator)]
    assert (similarity(shuffled).abs() - before).abs().max() < 1e-8
    assert (edge_strength(shuffled.view_as(maps)) - edge_strength(maps)).abs().min() > 1e-3
    lifted = maps.clone()
    lifted[2] += 1
    change = (similarity(lifted.flatten(1)).abs() - before).abs()
    assert change[2].max() > 1e-4
    assert change[0, 1] == 0


def test_of_two_equal_channels_one_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(60, 4, generator=generator)).Q.T
    maps = torch.cat([rows, rows[1:2]])
    redundancy = similarity(maps).abs()
    scores = removal_scores(redundancy, torch.zeros(5))
    sums = redundancy.sum(1)
    assert sums[1].item() == pytest.approx(sums[4].item())
    assert sorted(sums.argsort(descending=True)[:2].tolist()) == [1, 4]
    first, twin = sorted((1, 4), key=lambda channel: scores[channel])
    assert scores[first].item() == pytest.approx(-sums[1].item())
    assert scores[twin].item() == pytest.approx(scores[first].item() / 2, rel=1e-3)
    assert int(scores.argmin()) == first


def test_scores_of_the_same_standing() -> None:
    own, other = torch.tensor([3.0, 1.0, 1.0, 9.0]), torch.tensor([20.0, 10.0, 30.0])
    assert matched(own, own, own).tolist() == own.tolist()
    # Of four, 3, 2, 2 and 4 score at most as much: of three that is 2.25, 1.5, 1.5 and 3.
    assert matched(own, own, other).tolist() == [30, 20, 20, 30]
    assert matched(other, other, own).tolist() == [3, 1, 9]
    assert matched(own, own, torch.tensor([5.0])).tolist() == [5] * 4


class Products(TorchDispatchMode):
    """Counts the multiplications of matrix products, and the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.addmm_.default:
            self.multiplications += args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        elif isinstance(result, Tensor) and func.is_view is False and result is not args[0]:
            self.largest = max(self.largest, result.numel())
        return result


def test_wide_layers_take_bounded_memory_and_half_the_products() -> None:
    channels, positions = 2048, 6
    maps = torch.randn(channels, positions)
    total = torch.zeros(channels, channels)
    with Products() as made:
        add_similarity(total, maps)
    assert 0.5 < made.multiplications / (channels**2 * positions) < 0.53
    assert made.largest == maps.numel()

    tracemalloc.start()
    with Products() as made:
        scores = removal_scores(torch.ones(channels, channels), torch.zeros(channels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores.tolist() == [-float(channels - removed) for removed in range(channels)]
    # One copy of the matrix in double precision, and nothing but vectors for the removals.
    assert made.largest == channels**2
    assert peak < 100 * 8 * channels


# --- networks


class Encoded(toys.Residual):
    """A network of which everything but the fusing layer is the backbone."""

    backbone_prefixes = ("stem", "inner", "outer", "side")


@pytest.fixture
def encoded() -> nn.Module:
    return toys.settled(Encoded())


def norm_outputs(model: nn.Module, name: str, data: Sequence[Batch]) -> list[Tensor]:
    """What a norm gives with batch statistics."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _module, _inputs, out: seen.append(out.clone()))
    flags = [module.training for module in model.modules()]
    stats = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        for images, _ in data:
            model.train()(images)
    handle.remove()
    model.load_state_dict(stats)
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag
    return seen


@pytest.mark.parametrize("options", [{}, {"edge_weight": 0.0}, {"ema": 0.3, "area_normalise": True}])
def test_layers_of_a_network_equal_the_slow_formula(encoded: nn.Module, options: dict[str, float | bool]) -> None:
    data = batches(3)
    found = layer_scores(encoded, {"inner1.1", "fuse.1"}, data, **options)
    area = 16 * 24 if options.get("area_normalise") else 1
    for name, weight in (("inner1.1", options.get("edge_weight", 0.4)), ("fuse.1", 0.0)):
        expected = slow_scores(norm_outputs(encoded, name, data), weight, options.get("ema", 0.999), area)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-7 * area)
    edged = found["inner1.1"] - layer_scores(encoded, {"inner1.1"}, data, **{**options, "edge_weight": 0.0})["inner1.1"]
    assert (edged > 0.01).all() == (options.get("edge_weight") != 0)


def test_a_channel_stays_if_any_of_its_layers_wants_it(encoded: nn.Module) -> None:
    layers = {f"{name}.1" for name in ("stem", "outer1", "outer2", "inner1", "fuse")}
    raw = layer_scores(encoded, layers, batches())
    scores = scores_of(encoded, batches())
    trunk = torch.stack([raw[name] for name in ("stem.1", "outer1.1", "outer2.1")])
    assert torch.equal(scores["stem.0"], trunk.amax(0))
    assert len(set(trunk.argmax(0).tolist())) > 1
    assert torch.equal(scores["inner1.0"], raw["inner1.1"])
    assert torch.equal(scores["fuse.0"], raw["fuse.1"])


def test_members_in_two_pools_are_compared_by_their_standing() -> None:
    class Tied(toys.Unpooled):
        backbone_prefixes = ("encoder",)

    model = toys.settled(Tied())
    groups = prunable(find_groups(model))
    assert [producer.norm.layer for producer in groups[0].producers] == ["encoder.1", "middle.1"]
    raw = layer_scores(model, {"encoder.1", "middle.1", "decoder.1"}, batches())
    rest = torch.cat([raw["middle.1"], raw["decoder.1"]])
    scores = scores_of(model, batches())
    assert make_pruner("sirfp").pools(model, groups) == {"encoder.0": "backbone", "decoder.0": "rest"}
    # The edges give every channel of the encoder a larger score, but not a better standing.
    assert raw["encoder.1"].min() > rest.max()
    voted = matched(raw["middle.1"], rest, raw["encoder.1"])
    assert torch.equal(scores["encoder.0"], torch.maximum(raw["encoder.1"], voted))
    assert not torch.equal(scores["encoder.0"], raw["encoder.1"])
    assert torch.equal(scores["decoder.0"], raw["decoder.1"])
    # Two thresholds at the same share of each pool keep what one threshold on the merged scores keeps.
    for count in range(1, 6):
        lowest = raw["encoder.1"].sort().values[count - 1]
        lowest_of_rest = rest.sort().values[math.floor(count * len(rest) / 6) - 1]
        wanted = (raw["encoder.1"] > lowest) | (raw["middle.1"] > lowest_of_rest)
        assert (scores["encoder.0"] > lowest).tolist() == wanted.tolist()


def test_each_pool_loses_the_same_share() -> None:
    model = toys.settled(build_model(ModelSpec("unet_small", 12)))
    groups = find_groups(model)
    pruner, data = make_pruner("sirfp"), [(torch.randn(2, 3, 32, 48), torch.zeros(2, 32, 48))]
    scores = pruner.score(model, prunable(groups), Calibration(data, VOID, 0))
    pools = pruner.pools(model, prunable(groups))
    assert {name.split(".")[0] for name, pool in pools.items() if pool == "backbone"} == {"downs", "bottleneck"}
    assert set(pools.values()) == {"backbone", "rest"}
    table = CostTable(model, groups, (32, 48))
    for kind, value in (("channels", 0.4), ("macs", 0.5), ("params", 0.5), ("size", 10**6)):
        plan = make_plan(groups, scores, table, Target(Goal(kind, value), pools=pools))
        lost = {}
        for pool in ("backbone", "rest"):
            members = [group for group in prunable(groups) if pools[group.name] == pool]
            width = sum(group.channels for group in members)
            lost[pool] = (1 - sum(len(plan.kept[group.name]) for group in members) / width, width)
        assert lost["backbone"][0] > 0.1
        assert lost["backbone"][0] == pytest.approx(lost["rest"][0], abs=1 / lost["backbone"][1] + 1 / lost["rest"][1])


def test_a_network_without_a_backbone_is_one_pool_without_edges() -> None:
    model = toys.settled(toys.Chain())
    groups = prunable(find_groups(model))
    assert set(make_pruner("sirfp").pools(model, groups).values()) == {"rest"}
    with_edges, without = (scores_of(model, batches(), edge_weight=weight) for weight in (0.4, 0.0))
    assert all(torch.equal(with_edges[name], without[name]) for name in without)


def test_layers_without_a_norm_or_maps_are_measured_as_they_are() -> None:
    bare = toys.Chain(norm=False).eval()
    data = batches()
    with torch.no_grad():
        outputs = [bare.first(images) for images, _ in data]
    found = layer_scores(bare, {"first.0"}, data)["first.0"]
    torch.testing.assert_close(found, slow_scores(outputs, 0.0), rtol=1e-4, atol=1e-7)

    class Flat(toys.Flattened):
        backbone_prefixes = ("first", "linear")

    scores = scores_of(toys.settled(Flat()), data)
    assert {name: len(score) for name, score in scores.items()} == {"first.0": 5, "linear": 7}


def test_a_layer_that_does_not_run_has_no_score() -> None:
    model = toys.settled(toys.Auxiliary())
    scores = make_pruner("sirfp").score(model, find_groups(model), Calibration(batches(), VOID, 0))
    assert scores.keys() == {"first.0", "second.0", "head"}


# --- what the score depends on


def test_images_matter_and_labels_and_running_statistics_do_not(encoded: nn.Module) -> None:
    before = scores_of(encoded, batches())
    again = scores_of(encoded, batches())
    assert all(torch.equal(before[name], again[name]) for name in before)
    other_labels = scores_of(encoded, [(images, labels.flip(-1)) for images, labels in batches()])
    assert all(torch.equal(before[name], other_labels[name]) for name in before)
    other_images = scores_of(encoded, batches(seed=1))
    assert not any(torch.equal(before[name], other_images[name]) for name in before)
    for norm in (module for module in encoded.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean += 5
        norm.running_var *= 3
    shifted = scores_of(encoded, batches())
    assert all(torch.equal(before[name], shifted[name]) for name in before)


def test_the_network_is_left_as_it_was() -> None:
    model = toys.settled(toys.Between(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5))))
    model.layer[1].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    groups = prunable(find_groups(model))
    state = torch.get_rng_state()
    scores = make_pruner("sirfp").score(model, groups, Calibration(batches(), VOID, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert all(module.track_running_stats for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(score.requires_grad for score in scores.values())


# --- what cannot be done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_weight": -0.1}, "option edge_weight of sirfp must be at least 0, not -0.1"),
        ({"ema": 1.0}, r"option ema of sirfp must be in \[0, 1\), not 1.0"),
        ({"ema": -0.5}, r"option ema of sirfp must be in \[0, 1\)"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_pruner("sirfp", options)


def test_features_that_are_not_finite_are_an_error(encoded: nn.Module) -> None:
    encoded.inner1[0].weight.data[0, 0] = math.nan
    with pytest.raises(BenchError, match=r"the features of .* are not finite; the checkpoint is not usable"):
        scores_of(encoded, batches())


def test_a_single_pooled_image_is_an_error_that_says_what_to_do() -> None:
    model = toys.settled(toys.Between(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))))
    with pytest.raises(BenchError, match="raise `calib_batch_size` to at least 2"):
        scores_of(model, [(torch.randn(1, 3, 8, 8), torch.zeros(1, 8, 8))])
    assert not model.training
