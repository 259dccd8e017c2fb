"""FGP: the known two-channel network, the slow formula, its invariances, and one mass for all layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError, UsageError
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.fgp.pruner import ClassMeans, class_support, mass_score, shares, signed_means

VOID = 3
Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        images = torch.randn(2, 3, 16, 24, generator=generator)
        labels = torch.randint(0, 3, (2, 16, 24), generator=generator)
        labels[:, 0] = VOID
        drawn.append((images, labels))
    return drawn


def scores_of(model: nn.Module, data: Sequence[Batch], **options: object) -> Scores:
    groups = prunable(find_groups(model))
    return make_pruner("fgp", options).score(model, groups, Calibration(data, VOID, 0))


def ratios_of(model: nn.Module, data: Sequence[Batch], **options: object) -> Scores:
    return scores_of(model, data, selection="ratio", **options)


def assert_close(actual: Scores, expected: Scores, rtol: float = 1e-4) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=rtol, atol=1e-6)


def kept_prefix(support: Tensor, mass: float) -> list[int]:
    """The paper's selection: the shortest prefix by descending support whose share reaches a mass."""
    kept, reached = [], 0.0
    for channel in support.argsort(descending=True).tolist():
        if reached >= mass:
            break
        kept.append(channel)
        reached += float(support[channel] / support.sum())
    return sorted(kept)


def slow_support(
    model: nn.Module, layer: str, data: Sequence[Batch], target: str = "pred", normalise: bool = True
) -> Tensor:
    """Share of the support of one layer's channels, an image and a class at a time; every class weighs the same."""
    rows: dict[int, list[Tensor]] = {}
    for images, labels in data:
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            seen: list[Tensor] = []

            def keep(_module: nn.Module, _inputs: object, output: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(output)
                return output.clone()

            handle = model.get_submodule(layer).register_forward_hook(keep)
            logits = model(image)
            handle.remove()
            regions = logits.argmax(1) if target == "pred" else label
            for number in sorted(set(regions.flatten().tolist()) - ({VOID} if target == "gt" else set())):
                total = logits[0, number][regions[0] == number].sum()
                row = 0.0
                for output, gradient in zip(seen, torch.autograd.grad(total, seen, retain_graph=True), strict=True):
                    alpha = gradient.mean((2, 3), keepdim=True)
                    row = row + (alpha * output).relu().mean((0, 2, 3)).double().detach()
                rows.setdefault(number, []).append(row / row.sum() if normalise else row)
    support = torch.stack([torch.stack(of_class).mean(0) for of_class in rows.values()]).mean(0)
    return support / support.sum()


# --- the known network


class TwoChannels(nn.Module):
    """Gives back the first two channels of the image as features, and logits made of them by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.first.weight.data = torch.eye(3)[:2, :, None, None]
        self.head.weight.data = torch.tensor([[1.0, -1.0], [0.5, 2.0]])[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images))


KNOWN = torch.tensor([[[[1.0, 2], [3, 4]], [[2, 0], [0, 2]], [[0, 0], [0, 0]]]])


def test_the_known_example() -> None:
    model = TwoChannels().eval()
    logits = model(KNOWN)
    assert logits.argmax(1).tolist() == [[[1, 0], [0, 1]]]
    features = model.first(KNOWN)
    rows = []
    for number, alpha, support in ((0, [0.5, -0.5], [1.25, 0]), (1, [0.25, 1], [0.625, 1])):
        (gradient,) = torch.autograd.grad(
            (model.head(features)[:, number] * (logits.argmax(1) == number)).sum(), features
        )  # fmt: skip
        assert gradient.mean((2, 3)).tolist() == [alpha]
        rows.append(class_support(gradient, *signed_means(features.detach())))
        assert rows[-1].tolist() == [support]
    assert torch.cat(rows).mean(0).tolist() == [0.9375, 0.5]

    data = [(KNOWN, torch.zeros(1, 2, 2, dtype=torch.int64))]
    found = ratios_of(model, data, row_normalise=False)["first"]
    assert found.tolist() == pytest.approx([0.9375 / 1.4375, 0.5 / 1.4375])
    assert [round(share, 3) for share in found.tolist()] == [0.652, 0.348]
    assert (kept_prefix(found, 0.8), kept_prefix(found, 0.6)) == ([0, 1], [0])
    masses = scores_of(model, data, row_normalise=False)["first"]
    assert ((masses > 1 - 0.8).tolist(), (masses > 1 - 0.6).tolist()) == ([True, True], [True, False])
    # Every row made to sum to 1: (1, 0) and (5/13, 8/13).
    assert ratios_of(model, data)["first"].tolist() == pytest.approx([9 / 13, 4 / 13])


# --- the mean: over the images that hold a class, and then over the classes


def test_class_means_by_hand() -> None:
    means = ClassMeans()
    means.add(0, torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64))
    means.add(2, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    means.add(0, torch.tensor([[0.75, 0.25]], dtype=torch.float64))
    # Class 0 in three images: (0.75, 0.25); class 2 in one: (0, 1). Over the four pairs it would be (0.5625, 0.4375).
    assert means.mean().tolist() == [0.375, 0.625]
    # A class in images that give no row is left out.
    means.add(1, torch.empty(0, 2, dtype=torch.float64))
    assert means.mean().tolist() == [0.375, 0.625]
    nothing = ClassMeans()
    nothing.add(0, torch.empty(0, 2, dtype=torch.float64))
    assert nothing.mean().tolist() == [0, 0]


def constant(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, :, None, None].expand(1, 3, 2, 2)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_rare_class_weighs_as_much_as_a_frequent_one(normalise: bool) -> None:
    class OneEach(TwoChannels):
        """Each class's logits read one channel alone."""

        def __init__(self) -> None:
            super().__init__()
            self.head.weight.data = torch.eye(2)[:, :, None, None]

    model = OneEach().eval()
    frequent, rare = constant(2, 1, 0), constant(1, 2, 0)
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    equal = [(frequent, labels), (rare, labels)]
    often = [(torch.cat([frequent] * 5), torch.cat([labels] * 5)), (frequent, labels), (rare, labels)]
    for data in (equal, often):
        assert ratios_of(model, data, row_normalise=normalise)["first"].tolist() == [0.5, 0.5]
    # The mass follows: half of the support lies in either, so that T above a half keeps both.
    assert sorted(scores_of(model, often, row_normalise=normalise)["first"].tolist()) == [0.5, 1]


def test_an_image_that_gives_a_class_nothing_has_no_shares() -> None:
    model = TwoChannels().eval()
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    # Labelled 0, and the features that class 0 reads are zero.
    silent = [(constant(0, 0, 5), labels)]
    data = [(KNOWN, torch.tensor([[[0, 1], [1, 0]]]))]
    before = ratios_of(model, data, target="gt")["first"]
    assert torch.equal(ratios_of(model, data + silent, target="gt")["first"], before)
    plain = [ratios_of(model, some, target="gt", row_normalise=False)["first"] for some in (data, data + silent)]
    assert not torch.allclose(*plain, rtol=0.01)
    assert ratios_of(model, silent, target="gt")["first"].tolist() == [0, 0]


# --- the formula, slowly


def test_the_support_of_a_class_is_that_of_its_heat_map() -> None:
    generator = torch.Generator().manual_seed(0)
    features, gradient = torch.randn(2, 3, 5, 4, 6, generator=generator)
    alpha = gradient.mean((2, 3), keepdim=True)
    expected = (alpha * features).relu().mean((2, 3))
    torch.testing.assert_close(class_support(gradient, *signed_means(features)), expected)
    assert (expected > 0).any()


class Hasty(toys.Residual):
    """The residual network with everything behind a layer done in place."""

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images).relu_()
        for inner, outer in ((self.inner1, self.outer1), (self.inner2, self.outer2)):
            out = outer(inner(trunk).relu_())
            out += trunk
            trunk = out.relu_()
        return self.head(self.fuse(torch.cat([self.side(trunk).relu_(), trunk], dim=1)).relu_())


@pytest.mark.parametrize(("hook", "part"), [("conv", 0), ("norm", 1)])
@pytest.mark.parametrize("target", ["pred", "gt"])
@pytest.mark.parametrize("normalise", [True, False])
def test_scores_equal_the_slow_formula(hook: str, part: int, target: str, normalise: bool) -> None:
    model = toys.settled(Hasty())
    data = batches()
    scores = ratios_of(model, data, hook=hook, target=target, row_normalise=normalise)
    for name in ("inner1", "side", "fuse"):
        expected = slow_support(model, f"{name}.{part}", data, target, normalise)
        torch.testing.assert_close(scores[f"{name}.0"], expected, rtol=1e-4, atol=1e-7)
    trunk = sum(slow_support(model, f"{name}.{part}", data, target, normalise) for name in ("stem", "outer1", "outer2"))
    torch.testing.assert_close(scores["stem.0"], trunk, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", [lambda: toys.Chain(norm=False), toys.Transposed])
def test_layers_without_a_norm_are_hooked_themselves(kind: Callable[[], nn.Module]) -> None:
    model = kind().eval()
    data = batches()
    for hook in ("conv", "norm"):
        for name, score in ratios_of(model, data, hook=hook).items():
            torch.testing.assert_close(score, slow_support(model, name, data), rtol=1e-4, atol=1e-7)


def test_a_layer_that_runs_twice_supports_by_both_runs() -> None:
    class Twice(toys.Between):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(self.first(images)).relu()))

    model = Twice(nn.Conv2d(8, 8, 3, padding=1)).eval()
    group = next(group for group in find_groups(model) if group.name == "first")
    scores = make_pruner("fgp", {"selection": "ratio"}).score(model, [group], Calibration(batches(), VOID, 0))
    assert [producer.layer.layer for producer in group.producers] == ["first", "layer"]
    expected = slow_support(model, "first", batches()) + slow_support(model, "layer", batches())
    torch.testing.assert_close(scores["first"], expected, rtol=1e-4, atol=1e-7)


def test_linear_layers_have_their_channels_last() -> None:
    scores = ratios_of(toys.settled(toys.Flattened()), batches())
    assert {name: len(score) for name, score in scores.items()} == {"first.0": 5, "linear": 7}
    assert all(score.sum().item() == pytest.approx(1) for score in scores.values())


@pytest.mark.parametrize("normalise", [True, False])
def test_an_image_that_a_layer_sees_as_several_counts_once(normalise: bool) -> None:
    strips, maps = toys.Rows.both()
    assert_close(
        ratios_of(strips, batches(), row_normalise=normalise), ratios_of(maps, batches(), row_normalise=normalise)
    )


def test_layers_the_output_does_not_need_are_left_out() -> None:
    model = toys.settled(toys.Auxiliary())
    scores = make_pruner("fgp").score(model, find_groups(model), Calibration(batches(), VOID, 0))
    assert scores.keys() == {"first.0", "second.0", "head"}


# --- the mass


def test_shares() -> None:
    assert shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0, 0]]


def test_mass_scores_by_hand() -> None:
    scores = mass_score(torch.tensor([3.0, 0.0, 5.0, 2.0, 0.0], dtype=torch.float64))
    assert scores.tolist() == pytest.approx([0.5, 0, 1, 0.2, 0])
    assert scores[[1, 4]].tolist() == [0, 0]
    assert mass_score(torch.zeros(3)).tolist() == [0, 0, 0]


def test_one_global_threshold_is_the_same_mass_in_every_layer() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    supports = ratios_of(model, batches())
    table = CostTable(model, groups, (16, 24))
    total = sum(map(len, supports.values()))
    lost = set()
    for mass in (0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
        prefixes = {name: kept_prefix(support, mass) for name, support in supports.items()}
        scores = {name: mass_score(support) for name, support in supports.items()}
        by_threshold = {name: (score > 1 - mass).nonzero().flatten().tolist() for name, score in scores.items()}
        assert by_threshold == prefixes
        removed = total - sum(map(len, prefixes.values()))
        lost.add(removed)
        plan = make_plan(groups, scores, table, Target(Goal("channels", removed / total), min_keep=0.0))
        assert plan.kept == prefixes
        # A target of another kind stops at some mass, too: every layer keeps a prefix, and one mass explains all.
        plan = make_plan(
            groups, scores, table, Target(Goal("macs", plan.predicted.macs / plan.dense.macs), min_keep=0.0)
        )
        assert plan.kept == prefixes
    assert len(lost) > 4
    assert make_pruner("fgp").scope == "global"
    assert make_pruner("fgp", {"selection": "ratio"}).scope == "local"
    for name, score in scores_of(model, batches()).items():
        assert torch.equal(score, mass_score(supports[name]))


# --- what the score depends on


@pytest.fixture
def chain() -> nn.Module:
    return toys.settled(toys.Chain())


def test_supports_are_shares_and_a_trunk_has_one_of_each_member() -> None:
    scores = ratios_of(toys.settled(toys.Residual()), batches())
    sums = {name: score.sum().item() for name, score in scores.items()}
    assert sums == pytest.approx({name: 3 if name == "stem.0" else 1 for name in sums})
    assert all((score >= 0).all() for score in scores.values())


def test_a_channel_nobody_reads_supports_nothing(chain: nn.Module) -> None:
    chain.second[0].weight.data[:, [2, 5]] = 0
    scores = ratios_of(chain, batches())["first.0"]
    assert scores[[2, 5]].tolist() == [0, 0]
    assert (scores > 0).sum() == 6
    assert scores_of(chain, batches())["first.0"][[2, 5]].tolist() == [0, 0]


def test_the_size_of_a_classs_logits_does_not_matter_once_rows_are_shares(chain: nn.Module) -> None:
    before = {
        normalise: ratios_of(chain, batches(), target="gt", row_normalise=normalise) for normalise in (True, False)
    }
    chain.head.weight.data[1] *= 30
    assert_close(ratios_of(chain, batches(), target="gt"), before[True])
    after = ratios_of(chain, batches(), target="gt", row_normalise=False)
    assert not torch.allclose(after["first.0"], before[False]["first.0"], rtol=0.01)


def test_a_rescaled_channel_scores_the_same() -> None:
    model = toys.Chain(norm=False).eval()
    before = ratios_of(model, batches())
    factors = torch.tensor([0.2, 1, 3, 0.5, 10, 1, 2, 0.1])
    model.first[0].weight.data *= factors[:, None, None, None]
    model.first[0].bias.data *= factors
    model.second[0].weight.data /= factors[:, None, None]
    assert_close(ratios_of(model, batches()), before)


def test_permuted_channels_have_permuted_scores(chain: nn.Module) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    permuted = copy.deepcopy(chain)
    for tensor in (permuted.first[0].weight, *permuted.first[1].parameters(), *permuted.first[1].buffers()):
        if tensor.dim():
            tensor.data = tensor.data[order]
    permuted.second[0].weight.data = permuted.second[0].weight.data[:, order]
    before, after = ratios_of(chain, batches()), ratios_of(permuted, batches())
    assert_close(after, {"first.0": before["first.0"][order], "second.0": before["second.0"]})


def test_batches_do_not_matter_and_absent_classes_are_left_out(chain: nn.Module) -> None:
    data = batches()
    joined = [tuple(torch.cat(parts) for parts in zip(*data, strict=True))]
    assert_close(ratios_of(chain, joined), ratios_of(chain, data))
    # An image without a label adds nothing, and neither does a class with too few pixels.
    unlabelled = torch.full_like(data[0][1], VOID)
    some = [(data[0][0], torch.cat([data[0][1][:1], unlabelled[1:]]))]
    one = [(data[0][0][:1], data[0][1][:1])]
    assert_close(ratios_of(chain, some, target="gt"), ratios_of(chain, one, target="gt"))
    images, labels = data[0][0], torch.zeros_like(data[0][1])
    labels[:, 0, :5] = 1
    five, six = (ratios_of(chain, [(images, labels)], target="gt", min_pixels=least) for least in (5, 6))
    assert not torch.allclose(five["first.0"], six["first.0"], rtol=0.01)
    labels[:, 0, :5] = VOID
    assert_close(six, ratios_of(chain, [(images, labels)], target="gt"))
    # What one image has too little of counts in another.
    labels[0, 0, :5], labels[1, 0, :9] = 1, 1
    six = ratios_of(chain, [(images, labels)], target="gt", min_pixels=6)
    labels[0, 0, :5] = VOID
    assert_close(six, ratios_of(chain, [(images, labels)], target="gt"))


def test_images_matter_and_labels_only_where_they_are_the_target(chain: nn.Module) -> None:
    data = batches()
    other_labels = [(images, labels.flip(-1)) for images, labels in data]
    other_images = [(images.flip(1), labels) for images, labels in data]
    for target in ("pred", "gt"):
        before = scores_of(chain, data, target=target)
        again = scores_of(chain, batches(), target=target)
        assert all(torch.equal(before[name], again[name]) for name in before)
        changed = scores_of(chain, other_images, target=target)
        assert not any(torch.allclose(before[name], changed[name], rtol=1e-3) for name in before)
        relabelled = scores_of(chain, other_labels, target=target)
        assert all(torch.equal(before[name], relabelled[name]) == (target == "pred") for name in before)
    assert not torch.allclose(
        ratios_of(chain, data)["first.0"], ratios_of(chain, data, hook="norm")["first.0"], rtol=0.01
    )


def test_the_network_is_left_as_it_was(chain: nn.Module) -> None:
    data = batches(1)
    groups = prunable(find_groups(chain))
    before = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    with torch.no_grad():
        scores = make_pruner("fgp").score(chain, groups, Calibration(data, VOID, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.state_dict().items())
    assert not any(module.training for module in chain.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in chain.parameters())
    assert not any(module._forward_hooks for module in chain.modules())
    assert not any(score.requires_grad for score in scores.values())
    assert not data[0][0].requires_grad


# --- what cannot be done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hook": "relu"}, "option hook of fgp must be conv or norm, not 'relu'"),
        ({"target": "both"}, "option target of fgp must be pred or gt, not 'both'"),
        ({"selection": "top"}, "option selection of fgp must be mass or ratio, not 'top'"),
        ({"min_pixels": 0}, "option min_pixels of fgp must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruner("fgp", options)
    assert str(caught.value) == message


def test_images_without_a_class_are_an_error(chain: nn.Module) -> None:
    unlabelled = [(images, torch.full_like(labels, VOID)) for images, labels in batches()]
    with pytest.raises(BenchError, match="no calibration image has a class of at least 1 pixels; see more images"):
        scores_of(chain, unlabelled, target="gt")
    with pytest.raises(BenchError, match="a class of at least 500 pixels; see more images or lower min_pixels"):
        scores_of(chain, batches(), min_pixels=500)


def test_an_output_that_is_not_finite_is_an_error(chain: nn.Module) -> None:
    chain.head.weight.data[0, 0] = math.nan
    with pytest.raises(BenchError, match="the output for the calibration images is not finite"):
        scores_of(chain, batches())
