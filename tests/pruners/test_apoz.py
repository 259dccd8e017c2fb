"""APoZ and PAPM: hand-made numbers, what the scores depend on, and what a silent channel costs."""

from __future__ import annotations

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
from bench.pruners.apoz.papm import papm_importance, pixels_of, scaled_norm
from bench.pruners.base import Calibration

VOID = 3
Batches = list[tuple[Tensor, Tensor]]


def batches(seed: int = 1, size: tuple[int, int] = (16, 24)) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(2, 3, *size, generator=generator), torch.randint(0, VOID, (2, *size), generator=generator))
        for _ in range(2)
    ]


def scores_of(method: str, model: nn.Module, data: Batches | None = None, **settings: object) -> Scores:
    groups = prunable(find_groups(model))
    return make_pruner(method, settings).score(model, groups, Calibration(data or batches(), VOID, 0))


def ranking(scores: Tensor) -> list[int]:
    return scores.argsort(stable=True).tolist()


class Passing(nn.Module):
    """Colours pass as they are, through a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 4, 1)
        self.first.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images).relu())


@pytest.fixture
def chain() -> nn.Module:
    torch.manual_seed(0)
    return toys.settled(toys.Chain())


# --- APoZ


def test_shares_by_hand() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[0, 0].view(-1)[:] = torch.tensor([1.0, 0.0, -3.0, 2.0]).repeat(1024)
    image[0, 2] = 1
    scores = scores_of("apoz", Passing(), [(image, torch.zeros(1, 64, 64, dtype=torch.int64))])
    # APoZ of [1, 0, 0, 2] is a half, of all zeros 1, of all ones 0.
    assert scores["first"].tolist() == [0.5, 0, 1]


def test_scores_are_shares_and_follow_images_not_labels(chain: nn.Module) -> None:
    known, again = scores_of("apoz", chain), scores_of("apoz", chain)
    relabelled = scores_of("apoz", chain, [(images, (labels + 1) % VOID) for images, labels in batches()])
    other = scores_of("apoz", chain, batches(seed=2))
    assert known.keys() == {"first.0", "second.0"}
    for name, score in known.items():
        assert ((score >= 0) & (score <= 1)).all()
        assert torch.equal(score, again[name])
        assert torch.equal(score, relabelled[name])
        assert not torch.equal(score, other[name])


def test_the_scale_of_a_channel_does_not_matter_and_its_shift_does(chain: nn.Module) -> None:
    before = scores_of("apoz", chain)["first.0"]
    factors = torch.tensor([0.25, 1, 4, 0.5, 8, 1, 2, 0.125])
    chain.first[1].weight.data *= factors
    chain.first[1].bias.data *= factors
    assert torch.equal(scores_of("apoz", chain)["first.0"], before)
    chain.first[1].bias.data += 0.5
    assert (scores_of("apoz", chain)["first.0"] > before).all()


def test_a_channel_that_is_never_active_goes_without_a_trace() -> None:
    torch.manual_seed(0)
    model = toys.settled(toys.Residual())
    # No image can lift these channels above zero: their scale is nought and their shift negative.
    for norm in (model.stem[1], model.outer1[1], model.outer2[1]):
        norm.weight.data[[2, 5]], norm.bias.data[[2, 5]] = 0, -1
    model.inner1[1].weight.data[4], model.inner1[1].bias.data[4] = 0, -0.1
    scores = scores_of("apoz", model)
    dead = [("stem.0", 2), ("stem.0", 5), ("inner1.0", 4)]
    assert [scores[name][channel].item() for name, channel in dead] == [0, 0, 0]
    silent = {name: (score == 0).nonzero().flatten().tolist() for name, score in scores.items()}
    count = sum(map(len, silent.values()))
    groups = find_groups(model)
    plan = make_plan(groups, scores, CostTable(model, groups, (16, 24)), Target(Goal("channels", count / 32)))
    assert {name: sorted(set(range(len(scores[name]))) - set(kept)) for name, kept in plan.kept.items()} == silent
    smaller = toys.cut_copy(model, groups, plan)
    with torch.no_grad():
        for images, _ in batches():
            torch.testing.assert_close(smaller(images), model(images), rtol=1e-5, atol=1e-6)


def test_groups_without_a_relu_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Smooth(toys.Chain):
        """Another activation behind the first layer."""

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.second(nn.functional.gelu(self.first(images))).relu())

    model = toys.settled(Smooth())
    scores = scores_of("apoz", model)
    assert "no ReLU behind 1 of 2 groups (first.0): values of at most 0 are counted" in capsys.readouterr().out
    same = toys.settled(toys.Chain())
    same.load_state_dict(model.state_dict())
    assert torch.equal(scores["first.0"], scores_of("apoz", same)["first.0"])
    assert capsys.readouterr().out == ""


# --- PAPM


def test_norms_on_each_scale_by_hand() -> None:
    norms = torch.tensor([1.0, 4.0, 2.0])
    assert scaled_norm(norms, "raw").tolist() == [1, 4, 2]
    assert scaled_norm(norms, "max").tolist() == [0.25, 1, 0.5]
    torch.testing.assert_close(scaled_norm(norms, "minmax"), torch.tensor([0, 1, 1 / 3], dtype=torch.float64))
    assert scaled_norm(torch.zeros(2), "max").tolist() == [0, 0]
    assert scaled_norm(torch.ones(2), "minmax").tolist() == [0, 0]


def test_importance_by_hand() -> None:
    active = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64)
    members = [torch.tensor([1.0, 4.0, 2.0]), torch.tensor([30.0, 10.0, 0.0])]
    # On the scale of their largest: [.25, 1, .5] and [1, 1/3, 0]; their mean: [.625, .6667, .25].
    expected = torch.tensor([0.25 * 0.625 + 0.375, 0.25 * 2 / 3, 0.25 * 0.25 + 0.75], dtype=torch.float64)
    torch.testing.assert_close(papm_importance(members, active, 0.25, "max"), expected)
    raw = papm_importance([2 * members[0]], active, 0.5, "raw")
    assert raw.tolist() == [1.25, 4, 2.5]


def test_the_scale_of_a_layer_matters_only_to_raw_norms() -> None:
    # No bias and no norm: twice the weights are twice the activations, and as many zeros.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    known = {scale: scores_of("papm", model, norm_scale=scale)["0"] for scale in ("max", "minmax", "raw")}
    model[0].weight.data *= 16
    for scale, before in known.items():
        after = scores_of("papm", model, norm_scale=scale)["0"]
        assert torch.equal(after, before) == (scale != "raw")
        assert (ranking(after) == ranking(before)) == (scale != "raw")


@pytest.mark.parametrize("scale", ["max", "minmax", "raw"])
def test_alpha_weighs_linearly_between_norm_and_activity(scale: str) -> None:
    torch.manual_seed(0)
    model = toys.settled(toys.Residual())
    norm, half, active = (scores_of("papm", model, alpha=alpha, norm_scale=scale) for alpha in (1, 0.5, 0.0))
    l2, apoz = scores_of("l2", model), scores_of("apoz", model)
    for name in apoz:
        assert torch.equal(active[name], apoz[name])
        torch.testing.assert_close(half[name], (norm[name] + active[name]) / 2)
        if name != "stem.0":  # Layers of a trunk are merged on this method's scale.
            assert ranking(norm[name]) == ranking(l2[name])
    assert any(ranking(half[name]) not in (ranking(norm[name]), ranking(apoz[name])) for name in apoz)


def test_scores_follow_images_and_repeat(chain: nn.Module) -> None:
    known, again, other = scores_of("papm", chain), scores_of("papm", chain), scores_of("papm", chain, batches(2))
    relabelled = scores_of("papm", chain, [(images, (labels + 1) % VOID) for images, labels in batches()])
    for name, score in known.items():
        assert torch.equal(score, again[name])
        assert torch.equal(score, relabelled[name])
        assert not torch.equal(score, other[name])


def test_classes_choose_where_activations_count() -> None:
    image = torch.ones(2, 3, 64, 64)
    image[:, 0, :, :32], image[:, 1, :, 32:] = -1, -1
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[0, :, 32:] = 2
    data = [(image, labels)]

    def active(**settings: object) -> list[float]:
        return scores_of("papm", Passing(), data, alpha=0, **settings)["first"].tolist()

    assert active() == [0.5, 0.5, 1]
    assert active(classes=[2]) == [1, 0, 1]
    # Class 0 is the left half of the first image and the whole of the second.
    assert active(classes=(0,)) == pytest.approx([1 / 3, 2 / 3, 1])
    assert active(classes=[0, 2]) == active()


def test_images_without_the_classes_do_not_count(chain: nn.Module) -> None:
    data = batches()
    data[0][1][:], data[1][1][0] = 0, 0
    data[1][1][1] = 1
    alone = [(data[1][0][1:], data[1][1][1:])]
    chosen, expected = scores_of("papm", chain, data, classes=[1]), scores_of("papm", chain, alone)
    assert all(torch.equal(chosen[name], expected[name]) for name in expected)
    ((images, where),) = pixels_of(data, [1])
    assert torch.equal(images, alone[0][0]) and where.all() and where.shape == (1, 16, 24)
    with pytest.raises(BenchError, match="none of the 4 calibration images shows a class of 2; raise `calib_images`"):
        scores_of("papm", chain, data, classes=[2])


def test_classes_and_labels_change_the_scores(chain: nn.Module) -> None:
    one, other = scores_of("papm", chain, classes=[0]), scores_of("papm", chain, classes=[1])
    relabelled = [(images, (labels + 1) % VOID) for images, labels in batches()]
    moved = scores_of("papm", chain, relabelled, classes=[1])
    for name in one:
        assert not torch.equal(one[name], other[name])
        assert torch.equal(one[name], moved[name])


@pytest.mark.parametrize("classes", [[4], [0, VOID], [-1]])
def test_a_class_that_does_not_exist_is_refused(chain: nn.Module, classes: list[int]) -> None:
    with pytest.raises(UsageError, match=f"names {classes[-1]}, which is no class; they are 0 to 2"):
        scores_of("papm", chain, classes=classes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "option alpha of papm must be in [0, 1], not 1.5"),
        ({"norm_scale": "min"}, "option norm_scale of papm must be max, raw, minmax, not 'min'"),
        ({"classes": 3}, "option classes of papm must be a list of int such as [0,3], not 3"),
        ({"classes": [0, "car"]}, "option classes of papm must be a list of int such as [0,3], not [0, 'car']"),
        ({"classes": [True]}, "option classes of papm must be a list of int such as [0,3], not [True]"),
    ],
)
def test_wrong_options_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruner("papm", settings)
    assert str(caught.value) == message
