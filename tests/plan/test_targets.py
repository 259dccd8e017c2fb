"""Targets as they are asked for, and as they are reached: within which distance, and what never happens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import toy_networks as toys

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.cli.target_flags import chosen_goals
from bench.config.values import parse_bytes, parse_kept, parse_latency, parse_ratios
from bench.errors import BenchError, UsageError
from bench.measure.cost import measure_cost
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.target import Goal, Target

NETWORKS = ("unet_small", "simple_segnet", "resnet18_seg", "resnet50_seg")
COSTS = {"macs": "macs", "params": "parameters", "size": "bytes"}
SCOPES = ("global", "local", "isomorphic")
SIZE = (96, 128)


class Network:
    """A network with what planning needs, and a random score for each channel."""

    def __init__(self, name: str):
        torch.manual_seed(0)
        self.model = build_model(ModelSpec(name, 12))
        self.groups: list[ChannelGroup] = find_groups(self.model)
        self.table = CostTable(self.model, self.groups, SIZE)
        self.scores: Scores = toys.random_scores(self.groups)

    def plan(self, kind: str, value: float, scope: str = "global", **limits: object) -> PruningPlan:
        return make_plan(self.groups, self.scores, self.table, Target(Goal(kind, value), scope, **limits))

    def share(self, plan: PruningPlan, kind: str) -> float:
        return getattr(plan.predicted, COSTS[kind]) / getattr(plan.dense, COSTS[kind])

    def step(self, plan: PruningPlan, kind: str, channels: int) -> float:
        """The largest share of a cost that a few channels of one group make in a network."""
        left = torch.tensor([len(plan.kept.get(group.name, range(group.channels))) for group in self.groups]).numpy()
        steps = []
        for column, group in enumerate(self.groups):
            for sign in (-channels, channels):
                other = left.copy()
                other[column] = min(max(left[column] + sign, 1), group.channels)
                change = getattr(self.table.predict(other), COSTS[kind]) - getattr(plan.predicted, COSTS[kind])
                steps.append(abs(change) / getattr(plan.dense, COSTS[kind]))
        return max(steps)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return Network(request.param)


@pytest.fixture(scope="module")
def unet() -> Network:
    return Network("unet_small")


def gone(plan: PruningPlan, groups: list[ChannelGroup]) -> set[tuple[str, int]]:
    return {
        (group.name, channel)
        for group in prunable(groups)
        for channel in set(range(group.channels)) - set(plan.kept[group.name])
    }


# --- what is asked for


@pytest.mark.parametrize(
    ("text", "count"),
    [("10MB", 10**7), ("9.5 mb", 9_500_000), ("3B", 3), ("2KB", 2000), ("1GB", 10**9), ("10MiB", 10 * 2**20)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["10", "MB", "-1MB", "0MB", "1TB", "1e3MB", "ten MB", ""])
def test_malformed_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a number and B, KB"):
        parse_bytes(text)


def test_shares_to_keep() -> None:
    assert (parse_kept("1"), parse_kept("0.25")) == (1.0, 0.25)
    for text in ("0", "1.01", "-0.5", "nan", "half"):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            parse_kept(text)


def test_latencies_are_shares_or_times() -> None:
    for text, value in (("0.6", 0.6), ("1", 1.0)):
        assert parse_latency(text) == ("latency", value)
    for text, value in (("12ms", 12.0), (" 8.5 MS ", 8.5), (".5ms", 0.5)):
        assert parse_latency(text) == ("milliseconds", value)
    for text in ("0ms", "-1ms", "12", "ms", "12s", "0", "fast"):
        with pytest.raises(ValueError, match=r"\(0, 1\].*, or write a time such as 12ms$"):
            parse_latency(text)


def test_ratios_of_patterns() -> None:
    assert parse_ratios("layer4*=0.5, head.[01]=0") == {"layer4*": 0.5, "head.[01]": 0.0}
    for text in ("layer4", "=0.5", "a=0.5,,b=0.1", "a=1", "a=x"):
        with pytest.raises(ValueError, match=r"is not PATTERN=R|is not in \[0, 1\)|is not a number"):
            parse_ratios(text)


NOTHING = {"ratios": [], "target_macs": [], "target_params": [], "target_size": [], "target_latency": []}


def test_goals_of_a_command_line() -> None:
    arguments = SimpleNamespace(**{**NOTHING, "target_size": [10**7, 5000]})
    assert chosen_goals(arguments, "ratios") == [Goal("size", 10**7), Goal("size", 5000)]
    arguments = SimpleNamespace(**{**NOTHING, "target_latency": [("latency", 0.6), ("milliseconds", 12.0)]})
    assert chosen_goals(arguments, "ratios") == [Goal("latency", 0.6), Goal("milliseconds", 12.0)]
    nothing = {**dict.fromkeys(NOTHING), "global_ratio": None}
    assert chosen_goals(SimpleNamespace(**{**nothing, "global_ratio": 0.0}), "global_ratio") == [Goal("channels", 0.0)]
    arguments = SimpleNamespace(**{**nothing, "target_latency": ("milliseconds", 12.0)})
    assert chosen_goals(arguments, "global_ratio") == [Goal("milliseconds", 12.0)]


@pytest.mark.parametrize(
    ("given", "ending"),
    [({}, "--target-latency"), ({"ratios": [0.1], "target_macs": [0.5]}, ", not --ratios, --target-macs")],
)
def test_there_is_exactly_one_kind_of_goal(given: dict, ending: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen_goals(SimpleNamespace(**{**NOTHING, **given}), "ratios")
    message = str(caught.value)
    assert message.startswith(
        "pass exactly one of --ratios, --target-macs, --target-params, --target-size, --target-latency"
    )
    assert message.endswith(ending)


def test_goals_have_a_text_and_a_tag() -> None:
    goals = [Goal("channels", 0.125), Goal("macs", 0.5), Goal("params", 0.25), Goal("size", 9_500_000)]
    goals += [Goal("latency", 0.6), Goal("milliseconds", 0.6)]
    texts = ["0.125", "macs 0.5", "params 0.25", "size 9.5MB", "latency 0.6", "latency 0.6ms"]
    assert [str(goal) for goal in goals] == texts
    assert [goal.tag for goal in goals] == [
        "r0.125",
        "macs0.5",
        "params0.25",
        "size9500000",
        "latency0.6",
        "latency0.6ms",
    ]
    assert [goal.is_timed for goal in goals] == [False, False, False, False, True, True]


# --- what is reached


@pytest.mark.parametrize("share", [0.9, 0.75, 0.5, 0.25, 0.1])
def test_five_targets(network: Network, share: float) -> None:
    for scope in SCOPES:
        for kind in ("macs", "params"):
            plan = network.plan(kind, share, scope)
            assert network.share(plan, kind) == pytest.approx(share, abs=max(0.005, network.step(plan, kind, 1)))
            assert network.share(plan, kind) == pytest.approx(share, abs=0.005)
        plan = network.plan("size", int(share * network.table.dense().bytes), scope)
        assert 0 <= share - network.share(plan, "size") < 0.005


@pytest.mark.parametrize("scope", SCOPES)
def test_rounded_targets_are_one_step_away(network: Network, scope: str) -> None:
    for share in (0.8, 0.5, 0.3):
        for kind in ("macs", "params"):
            plan = network.plan(kind, share, scope, round_to=8)
            assert network.share(plan, kind) == pytest.approx(share, abs=max(0.005, network.step(plan, kind, 8)))
        wanted = int(share * network.table.dense().bytes)
        plan = network.plan("size", wanted, scope, round_to=8)
        assert plan.predicted.bytes <= wanted
        assert share - network.share(plan, "size") <= max(0.005, network.step(plan, "size", 8))
        for group in prunable(network.groups):
            assert len(plan.kept[group.name]) % 8 == 0 or len(plan.kept[group.name]) == group.channels


def test_ten_megabytes_are_what_the_tensors_have(tmp_path) -> None:
    network = Network("resnet50_seg")
    plan = network.plan("size", parse_bytes("10MB"))
    smaller = toys.cut_copy(network.model, network.groups, plan)
    cost = measure_cost(smaller, SIZE)
    assert plan.predicted == Prediction(cost.parameters, cost.macs, cost.state_bytes)
    assert 9_950_000 < cost.state_bytes <= 10_000_000
    torch.save(smaller.state_dict(), tmp_path / "small.pt")
    # Names and the archive around the tensors.
    assert cost.state_bytes < (tmp_path / "small.pt").stat().st_size < 1.02 * cost.state_bytes


def test_a_size_is_the_largest_network_that_fits(unet: Network) -> None:
    plan = unet.plan("size", 10**6)
    count, total = plan.channels[1] - plan.channels[0], plan.channels[1]
    larger = unet.plan("channels", (count - 1) / total)
    assert larger.channels[0] == plan.channels[0] + 1
    assert plan.predicted.bytes <= 10**6 < larger.predicted.bytes
    assert not unet.plan("size", unet.table.dense().bytes).removes_channels
    assert not unet.plan("size", 10**9).removes_channels
    assert not unet.plan("macs", 1.0).removes_channels


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["channels", *COSTS])
def test_harder_targets_contain_easier_ones(unet: Network, kind: str, scope: str, round_to: int) -> None:
    dense, removed, before = unet.table.dense(), set(), None
    for share in (0.05, 0.2, 0.35, 0.5, 0.6, 0.7):
        value = {"channels": share, "size": int((1 - share) * dense.bytes)}.get(kind, 1 - share)
        plan = unet.plan(kind, value, scope, round_to=round_to)
        more = gone(plan, unet.groups)
        assert removed <= more
        if before is not None:
            assert all(new <= old for new, old in zip(plan.predicted, before, strict=True))
        removed, before = more, plan.predicted
    assert removed


@pytest.mark.parametrize("kind", ["channels", *COSTS])
@pytest.mark.parametrize("scope", SCOPES)
def test_only_the_order_of_the_scores_counts(unet: Network, kind: str, scope: str) -> None:
    target = Target(Goal(kind, 900_000 if kind == "size" else 0.45), scope, round_to=4)
    plan = make_plan(unet.groups, unet.scores, unet.table, target)
    for change in (torch.exp, lambda score: score**3 - 5, lambda score: 1e-9 * score.double()):
        changed = {name: change(score) for name, score in unet.scores.items()}
        found = make_plan(unet.groups, changed, unet.table, target)
        assert replace(found, threshold=plan.threshold) == plan
        if scope == "global":
            assert found.threshold == pytest.approx(change(torch.tensor(plan.threshold)).item())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_ties_reach_a_target_as_well(unet: Network, scope: str, share: float) -> None:
    ties = {name: torch.ones_like(score) for name, score in unet.scores.items()}
    plan = make_plan(unet.groups, ties, unet.table, Target(Goal("macs", share), scope))
    assert unet.share(plan, "macs") == pytest.approx(share, abs=0.005)
    if scope != "local":
        plan = make_plan(unet.groups, ties, unet.table, Target(Goal("channels", 1 - share), scope))
        assert plan.channel_ratio == pytest.approx(1 - share, abs=1 / plan.channels[1])
        assert plan.channel_ratio <= 1 - share + 1e-9


# --- what cannot be


@pytest.mark.parametrize(
    ("limits", "flags"),
    [
        ({}, "`min_keep=0.02`"),
        ({"max_ratio": 0.5}, "`min_keep=0.02` and `max_ratio=0.5`"),
        ({"round_to": 8, "min_keep": 0.3}, "`min_keep=0.3` and `round_to=8`"),
        ({"ratio_of": {"downs*": 0.1}}, "`min_keep=0.02` and `ratio_of`"),
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_out_of_reach_names_the_best_and_the_best_is_within_reach(
    unet: Network, scope: str, limits: dict, flags: str
) -> None:
    for kind, value in (("macs", 0.0005), ("params", 0.0005)):
        with pytest.raises(BenchError) as caught:
            unet.plan(kind, value, scope, **limits)
        message = str(caught.value)
        assert f"stay with {flags}; ask for more or loosen that" in message
        best = float(message.split("at least ")[1].split("%")[0]) / 100
        assert unet.share(unet.plan(kind, best, scope, **limits), kind) == pytest.approx(best, abs=0.001)
    with pytest.raises(
        BenchError, match=r"^cannot get down to 0\.001MB: at least [\d.]+MB stay with `min_keep="
    ) as caught:
        unet.plan("size", 1000, scope, **limits)
    best = parse_bytes(str(caught.value).split("at least ")[1].split(" ")[0])
    assert unet.plan("size", best, scope, **limits).predicted.bytes <= best
    with pytest.raises(BenchError, match=r"^cannot remove 99\.9% of the channels: at most") as caught:
        unet.plan("channels", 0.999, scope, **limits)
    if scope != "local":
        best = float(str(caught.value).split("at most ")[1].split("%")[0]) / 100
        assert unet.plan("channels", best, scope, **limits).removes_channels
