"""Magnitude: the formula by hand, exact and nested counts, categories, and tables that are wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import toy_networks as toys
import yaml
from torch import Tensor, nn

from bench.channels.groups import find_groups, layers_to_spare
from bench.errors import BenchError, UsageError
from bench.models import ModelSpec, build_model
from bench.plan.target import Goal
from bench.pruners import make_pruner
from bench.pruners.magnitude.pruner import Magnitude, least_important, magnitude_importance, zero_counts
from bench.pruners.magnitude.rules import read_rules, weights_of

TABLES = ("configs/magnitude_segmentation.yaml", "configs/magnitude_tokenc3_lsnet.yaml")


def table(tmp_path: Path, *rules: dict) -> str:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({"rules": list(rules)}))
    return str(path)


def rule(category: str, ratio: float, **patterns: object) -> dict:
    return {"category": category, "ratio": ratio, **patterns}


def zeroed(pruner: Magnitude, model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    return dict(pruner.choose(model, layers_to_spare(find_groups(model)), sparsity).zeroed)


class LSConv(nn.Sequential):
    """A module whose type the published table names."""


class LSNet(nn.Sequential):
    """One that holds others."""


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2)


# --- the formula and the counts


def test_importance_by_hand() -> None:
    weights = torch.tensor([0.0, 1.0, -1.0, 2.0, -0.5])
    torch.testing.assert_close(
        magnitude_importance(weights), torch.tensor([0.0, 1.0, 1.0, 2.6, 0.425], dtype=torch.float64)
    )


def test_the_least_important_are_exactly_as_many_as_asked_also_among_equals() -> None:
    importance = torch.tensor([1.0, 0.5, 1.0, 0.5, 0.5, 0.2])
    assert least_important(importance, 0).tolist() == [False] * 6
    assert least_important(importance, 3).tolist() == [False, True, False, True, False, True]
    assert least_important(importance, 5).tolist() == [True, True, False, True, True, True]


def test_the_table_as_it_is_rounds_each_layer() -> None:
    sizes, ratios = [100, 37, 1000], [0.06, 0.22, 0.12]
    rounded = [6, 8, 120]
    assert zero_counts(sizes, ratios, sum(rounded), keep=[1, 1, 1]) == rounded


def test_counts_by_hand() -> None:
    # Proportional, half-way rounded up for the first of two equals, none for a ratio of 0.
    assert zero_counts([10, 10], [0.1, 0.1], 5, keep=[1, 1]) == [3, 2]
    assert zero_counts([100, 100], [0.1, 0.3], 40, keep=[1, 1]) == [10, 30]
    assert zero_counts([100, 100], [0.0, 0.3], 40, keep=[1, 1]) == [0, 40]
    # The second would lose 120 of its 100: it keeps 1, the first takes over what is left.
    assert zero_counts([100, 100], [0.1, 0.3], 160, keep=[1, 1]) == [61, 99]
    assert zero_counts([100, 100], [0.1, 0.3], 500, keep=[1, 1]) == [99, 99]


def test_counts_are_exact_and_never_fall_when_more_is_asked() -> None:
    sizes, ratios = [3, 50, 7, 400, 41], [0.06, 0.22, 0.22, 0.15, 0.12]
    counts = [zero_counts(sizes, ratios, total, keep=[1] * 5) for total in range(sum(sizes) - 4)]
    assert [sum(count) for count in counts] == list(range(len(counts)))
    for smaller, larger in itertools.pairwise(counts):
        assert all(low <= high for low, high in zip(smaller, larger, strict=True))
    assert counts[-1] == [2, 49, 6, 399, 40]


# --- choosing weights


@pytest.mark.parametrize("scope", ["layer", "category"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93])
def test_the_sparsity_is_exact_and_the_smallest_go(scope: str, sparsity: float) -> None:
    model = toys.Residual()
    pruner = make_pruner("magnitude", {"scope": scope})
    chosen = pruner.choose(model, {"head"}, sparsity)
    names = [name for name, _ in model.named_parameters() if name.endswith("0.weight")]
    assert sorted(chosen.zeroed) == sorted(names)
    total = sum(model.get_parameter(name).numel() for name in names)
    gone = sum(int(zeros.sum()) for zeros in chosen.zeroed.values())
    assert gone == int(sparsity * total + 0.5) == chosen.record["zeroed"]
    assert chosen.record["reached"] == gone / total == pytest.approx(sparsity, abs=1 / total)
    assert chosen.record["weights"] == total
    for name, zeros in chosen.zeroed.items():
        values = model.get_parameter(name).detach().abs()
        assert not zeros.all()
        if zeros.any():
            assert values[zeros].max() <= values[~zeros].min()


def test_in_a_category_the_smallest_of_all_its_layers_go(tmp_path: Path) -> None:
    model = toys.Chain(norm=False)
    with torch.no_grad():
        model.first[0].weight.fill_(0.1)
        model.second[0].weight.fill_(1.0)
    rules = table(tmp_path, rule("all", 0.2))
    by_layer = make_pruner("magnitude", {"rules": rules}).choose(model, {"head"}, 0.2)
    together = make_pruner("magnitude", {"rules": rules, "scope": "category"}).choose(model, {"head"}, 0.2)
    # 216 and 432 weights, of which 130 go.
    assert [int(zeros.sum()) for zeros in by_layer.zeroed.values()] == [43, 87]
    assert [int(zeros.sum()) for zeros in together.zeroed.values()] == [130, 0]
    # Even where a whole layer is small, one weight of it stays.
    most = make_pruner("magnitude", {"rules": rules, "scope": "category"}).choose(model, {"head"}, 0.5)
    assert [int(zeros.sum()) for zeros in most.zeroed.values()] == [215, 109]


@pytest.mark.parametrize("scope", ["layer", "category"])
def test_masks_are_nested(scope: str) -> None:
    model = build_model(ModelSpec("unet_small", 12))
    pruner = make_pruner("magnitude", {"scope": scope})
    masks = [pruner.choose(model, {"final_conv"}, sparsity).zeroed for sparsity in (0.1, 0.11, 0.5, 0.9)]
    for fewer, more in itertools.pairwise(masks):
        assert all((more[name] | ~zeros).all() for name, zeros in fewer.items())


def test_no_sparsity_is_the_identity_and_scores_leave_the_model_alone() -> None:
    model = toys.Chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any(zeros.any() for zeros in zeroed(make_pruner("magnitude"), model, 0.0).values())
    zeroed(make_pruner("magnitude"), model, 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_categories_lose_the_table_s_share(tmp_path: Path) -> None:
    model = toys.Residual()
    rules = table(tmp_path, rule("inner", 0.30, name="inner*"), rule("stem", 0.0, name="stem*"), rule("rest", 0.10))
    pruner = make_pruner("magnitude", {"rules": rules})
    sizes = {"inner": 8 * 6 * 9 + 8 * 7 * 9, "rest": (6 * 8 + 7 * 8 + 8 * 5 + 13 * 6) * 9}
    own = (0.3 * sizes["inner"] + 0.1 * sizes["rest"]) / sum(sizes.values())
    for factor in (1.0, 2.0):
        record = pruner.choose(model, {"head"}, factor * own).record
        assert record["table_sparsity"] == pytest.approx(own)
        assert record["categories"].keys() == sizes.keys()
        for category, ratio in (("inner", 0.3), ("rest", 0.1)):
            part = record["categories"][category]
            assert (part["weights"], part["table_ratio"]) == (sizes[category], ratio)
            # Each layer is rounded by itself.
            assert part["zeroed"] == pytest.approx(factor * ratio * sizes[category], abs=part["layers"] / 2 + 1)
            assert part["sparsity"] == part["zeroed"] / part["weights"]
        assert record["left_alone"] == ["stem.0.weight", "head.weight"]


def test_the_first_rule_that_fits_counts(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("net", LSNet(nn.Conv2d(3, 8, 1), LSConv(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8))))
    model.add_module("attention", Attention())
    model.add_module("last", nn.Linear(4, 4))
    rules = read_rules("configs/magnitude_tokenc3_lsnet.yaml")
    categories = {weight.name: weight.rule.category for weight in weights_of(model, rules)}
    assert categories == {
        "net.0.weight": "lsnet",
        "net.1.0.weight": "token",
        "attention.inner.in_proj_weight": "attention",
        "attention.inner.out_proj.weight": "attention",
        "last.weight": "other",
    }
    turned = table(tmp_path, rule("all", 0.5), rule("token", 0.1, type="LSConv"))
    assert {weight.rule.category for weight in weights_of(model, read_rules(turned))} == {"all"}
    both = table(tmp_path, rule("both", 0.5, type="depthwise", name="net.*"), rule("name", 0.5, name="last"))
    fitting = {w.name: w.rule and w.rule.category for w in weights_of(model, read_rules(both))}
    assert [name for name, category in fitting.items() if category] == ["net.1.0.weight", "last.weight"]


def test_the_published_table() -> None:
    ratios = {rule.category: rule.ratio for rule in read_rules("configs/magnitude_tokenc3_lsnet.yaml")}
    assert ratios == {
        "head": 0, "token": 0.06, "hyperace": 0.04, "lsnet": 0.08, "fullpad": 0.10, "attention": 0.12, "dsc": 0.15,
        "convolution": 0.22, "other": 0.12,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "resnet18_seg", "simple_segnet", "unet_small"])
def test_the_project_s_table_knows_the_project_s_networks(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ModelSpec(name, 12))
    found = {w.layer: w.rule.category for w in weights_of(model, read_rules("configs/magnitude_segmentation.yaml"))}
    assert {"stem", "backbone", "decoder"} <= set(found.values())
    # The layers that make logits and the auxiliary head have no row: they are spared whatever it says.
    others = {layer.split(".")[0] for layer, category in found.items() if category == "other"}
    assert others <= {"classifier", "final_conv", "aux_classifier"}


def test_heads_are_never_touched() -> None:
    for model, heads in ((toys.Auxiliary(), {"head", "aux.0.0", "aux.2"}), (toys.Refined(), {"coarse", "fine"})):
        assert layers_to_spare(find_groups(model)) == heads
        touched = {name.removesuffix(".weight") for name in zeroed(make_pruner("magnitude"), model, 0.5)}
        assert touched and touched.isdisjoint(heads)


def test_what_the_user_protects_is_spared() -> None:
    groups = find_groups(toys.Chain(), ignore=["second*"], protect_first=True)
    assert layers_to_spare(groups) == {"first.0", "second.0", "head"}


def test_a_shared_weight_counts_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1)})
    model["b"].weight = model["a"].weight
    record = make_pruner("magnitude", {"rules": table(tmp_path, rule("all", 0.5))}).choose(model, (), 0.5).record
    assert (record["weights"], record["zeroed"]) == (16, 8)


# --- what is refused


def test_a_share_that_cannot_go_is_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(2, 2, 1)})
    pruner = make_pruner("magnitude", {"rules": table(tmp_path, rule("all", 0.5))})
    assert int(pruner.choose(model, (), 0.75).zeroed["a.weight"].sum()) == 3
    with pytest.raises(BenchError, match=r"0.95 of the weights cannot go"):
        pruner.choose(model, (), 0.95)
    with pytest.raises(BenchError, match="no weight of the network has a rule"):
        pruner.choose(model, {"a"}, 0.5)


def test_only_a_share_can_be_asked_for() -> None:
    pruner = make_pruner("magnitude")
    assert pruner.aim(Goal("channels", 0.3)) == pruner.aim(Goal("sparsity", 0.3)) == Goal("sparsity", 0.3)
    for kind in ("macs", "params", "size"):
        with pytest.raises(UsageError, match="magnitude zeroes single weights"):
            pruner.aim(Goal(kind, 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [", "is not YAML"),
        ("- a", "must hold a list named 'rules'"),
        ("rules: []", "at least one rule"),
        ("rules: [3]", "rule 1 must be a mapping with category and ratio, not 3"),
        ("rules: [{category: a, ratio: 0.1}, {category: b, ratios: 0.1}]", "rule 2 has the unknown key 'ratios'"),
        ("rules: [{ratio: 0.1}]", "rule 1 needs a category"),
        ("rules: [{category: a}]", r"\(a\) needs a ratio in \[0, 1\), not None"),
        ("rules: [{category: a, ratio: 1.0}]", "not 1.0"),
        ("rules: [{category: a, ratio: true}]", "not True"),
        ("rules: [{category: a, ratio: 0.1, name: 3}]", "name must be a pattern or a list of patterns, not 3"),
        ("rules: [{category: a, ratio: 0.1, type: [x, 3]}]", "type must be a pattern"),
        ("rules: [{category: a, ratio: 0.1}, {category: a, ratio: 0.2}]", "category 'a' twice"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        make_pruner("magnitude", {"rules": str(path)})
    assert "\n" not in str(caught.value)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; the project's are in configs/"):
        make_pruner("magnitude", {"rules": str(tmp_path / "nothing.yaml")})
    with pytest.raises(UsageError, match="must be layer or category, not 'global'"):
        make_pruner("magnitude", {"scope": "global"})
    with pytest.raises(UsageError, match="unknown option of magnitude 'table'"):
        make_pruner("magnitude", {"table": "x"})


def test_the_tables_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(read_rules(path) for path in TABLES)
