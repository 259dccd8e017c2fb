"""Timing: the protocol, and what it says of networks that differ or do not."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import BenchError, UsageError
from bench.measure import latency
from bench.measure.latency import Effort, interleaved, paired_interval, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import Latency, LatencyReport, Speedup
from bench.measure.options import TimingOptions
from bench.report.latency_text import latency_conditions, latency_lines
from bench.system.files import plain


class Sleeper(nn.Module):
    """A network whose cost is known, and which writes down when it is called."""

    def __init__(self, seconds: float, name: str, diary: list[str]):
        super().__init__()
        self.seconds, self.name, self.diary = seconds, name, diary

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.diary.append(self.name)
        time.sleep(self.seconds)
        return images


def toy(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quick(**changes) -> dict[str, Any]:
    options = TimingOptions(**{"latency_warmup": 2, "latency_runs": 12, **changes})
    return {"mode": LatencyMode.of(options, torch.device("cpu")), "effort": Effort.of(options)}


def test_rounds_are_interleaved_and_no_network_has_the_better_place():
    diary: list[str] = []
    networks = {name: Sleeper(0, name, diary).train() for name in "abc"}
    report = time_networks(networks, (4, 4), device="cpu", **quick(latency_runs=300))
    assert (report.warmup, report.rounds) == (2, 300)
    assert diary[:6] == list("abcabc")
    rounds = ["".join(diary[start : start + 3]) for start in range(6, len(diary), 3)]
    assert len(rounds) == 300
    assert len(set(rounds)) == 6
    assert all(second == first[::-1] for first, second in zip(rounds[::2], rounds[1::2], strict=True))
    # A fixed order turned around would let a and c, but never b, follow themselves with a warm cache.
    follows = [sum(pair == (name, name) for pair in itertools.pairwise(diary)) for name in "abc"]
    assert min(follows) > 0.6 * max(follows)
    assert all(model.training for model in networks.values())


def test_a_pass_is_timed_whole():
    diary: list[str] = []
    networks = {"slow": Sleeper(0.012, "slow", diary), "fast": Sleeper(0.003, "fast", diary)}
    report = time_networks(networks, (50, 20), device="cpu", **quick())
    slow, fast = report.networks["slow"], report.networks["fast"]
    assert slow.p10_ms >= 12
    assert 3 <= fast.p10_ms <= fast.median_ms <= fast.p90_ms
    assert fast.speedup_low <= fast.speedup <= fast.speedup_high
    assert (slow.speedup, slow.speedup_low, slow.speedup_high) == (None, None, None)


def test_time_limit_stops_warmup_and_timing_but_not_below_the_minimum():
    diary: list[str] = []
    report = time_networks(
        {"a": Sleeper(0.005, "a", diary)},
        (4, 4),
        device="cpu",
        **quick(latency_warmup=1000, latency_runs=1000, latency_seconds=0.001),
    )
    assert (report.warmup, report.rounds) == (3, 10)
    assert len(diary) == 13


def test_few_runs_are_raised_to_the_minimum():
    report = time_networks({"a": toy(2)}, (8, 8), device="cpu", **quick(latency_warmup=0, latency_runs=1))
    assert (report.warmup, report.rounds) == (0, 10)


def test_record_states_the_conditions():
    networks = {"plain": toy(4), "half": toy(4).to(torch.bfloat16)}
    record = plain(time_networks(networks, (7, 9), device="cpu", **quick()))
    assert record["input_size"] == [7, 9]
    assert record["threads"] == 1
    assert record["batch"] == 1
    assert record["mode"] == {"amp": "none", "channels_last": False, "compiled": False, "throughput_batch": 0}
    assert record["throughput"] is None
    assert record["device"]
    assert list(record["networks"]) == ["plain", "half"]
    assert [entry["memory_format"] for entry in record["networks"].values()] == ["contiguous", "contiguous"]
    assert [entry["precision"] for entry in record["networks"].values()] == ["float32", "bfloat16"]


def alternating(rounds: int, random: np.random.Generator) -> np.ndarray:
    """Which rounds the reference leads: drawn for each first of a pair, and the other way round for the second."""
    drawn = random.random(rounds // 2) < 0.5
    return np.stack([drawn, ~drawn], axis=1).ravel()


def test_interval_is_seeded_and_holds_the_typical_ratio():
    random = np.random.default_rng(1)
    ratios, leads = random.lognormal(0.5, 0.1, 100), alternating(100, random)
    typical, low, high = paired_interval(ratios, leads)
    assert typical == pytest.approx(np.sqrt(np.median(ratios[leads]) * np.median(ratios[~leads])), rel=0.01)
    assert low < typical < high
    assert (typical, low, high) == paired_interval(ratios, leads)


def test_interval_of_constant_ratios_is_a_point():
    assert paired_interval(np.full(10, 1.5), np.arange(10) < 5) == pytest.approx((1.5, 1.5, 1.5))


def test_the_order_cancels_out_of_a_ratio():
    # Who runs second runs in a warm cache: ratios lie around 1.5 * 1.1 and 1.5 / 1.1, half of them each.
    random = np.random.default_rng(4)
    leads = alternating(100, random)
    ratios = 1.5 * np.where(leads, 1.1, 1 / 1.1) * random.lognormal(0, 0.01, 100)
    typical, low, high = paired_interval(ratios, leads)
    assert typical == pytest.approx(1.5, rel=0.004)
    assert high - low < 0.02
    assert low <= 1.5 <= high


@pytest.mark.parametrize("rounds", [10, 20])
@pytest.mark.parametrize("order_effect", [0, 0.1])
def test_interval_covers_the_truth_at_least_as_often_as_it_says(rounds, order_effect):
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        leads = alternating(rounds, random)
        noise = random.standard_t(3, rounds) * 0.05
        _, low, high = paired_interval(np.exp(noise + np.where(leads, order_effect, -order_effect)), leads)
        hits += low <= 1 <= high
    # Not below 95 % by more than 200 draws may be by chance, nor so wide that it never misses.
    assert 184 <= hits < 199


def test_rounds_come_in_pairs_that_turn_around():
    orders = list(interleaved(["a", "b", "c"], 15, 60.0))
    assert len(orders) == 16
    assert all(second == first[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert len(list(interleaved(["a"], 1, 60.0))) == 10
    assert len(list(interleaved(["a"], 1000, 0.0))) == 10


class Told(nn.Module):
    """A network that takes as long as it is told."""

    def __init__(self, milliseconds: float):
        super().__init__()
        self.milliseconds = milliseconds


@pytest.fixture
def made_up(monkeypatch):
    """Lets a pass take what its network says, half as much again if it ran first in its round, as the machine slows."""
    passes = itertools.count()

    def time_pass(model: nn.Module, images: torch.Tensor) -> float:
        number = next(passes)
        return model.milliseconds * (1.5 if number % 2 == 0 else 1) * (1 + number / 200) * len(images) ** 0.5

    monkeypatch.setattr(latency, "time_on_cpu", time_pass)


def test_made_up_times_give_their_ratio(made_up):
    networks = {"slow": Told(30), "fast": Told(10)}
    options = quick(latency_runs=100, latency_batch=16)
    report = time_networks(networks, (10, 20), device="cpu", **options)
    for measured, batch in ((report, 1), (report.throughput, 16)):
        fast = measured.networks["fast"]
        assert fast.speedup == pytest.approx(3, rel=0.01)
        assert 2.9 < fast.speedup_low <= fast.speedup_high < 3.1
        assert measured.batch == batch
        assert fast.fps == pytest.approx(1000 * batch / fast.median_ms)
        assert fast.pixels_per_second == pytest.approx(200 * fast.fps)
    assert report.throughput.throughput is None
    same = time_networks({"dense": Told(10), "same": Told(10)}, (10, 20), device="cpu", **options)
    assert same.networks["same"].speedup_low <= 1 <= same.networks["same"].speedup_high


class Witness(nn.Module):
    """A network that writes down how it is run."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 3), set()

    def __deepcopy__(self, memo):
        twin = Witness()
        twin.conv.load_state_dict(self.conv.state_dict())
        twin.seen = self.seen
        return twin.train(self.training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = self.conv(images)
        last = [t.is_contiguous(memory_format=torch.channels_last) for t in (images, self.conv.weight)]
        self.seen.add((output.dtype, len(images), *last))
        return output


def test_mixed_precision_and_memory_format_are_of_the_timed_networks_alone():
    networks = {"a": Witness().train(), "b": Witness()}
    options = quick(latency_amp="bf16", latency_channels_last=True, latency_batch=2)
    report = time_networks(networks, (8, 9), device="cpu", **options)
    for name, network in networks.items():
        assert network.seen == {(torch.bfloat16, 1, True, True), (torch.bfloat16, 2, True, True)}
        assert network.conv.weight.dtype == torch.float32
        assert not network.conv.weight.is_contiguous(memory_format=torch.channels_last)
        measured = report.networks[name]
        assert (measured.precision, measured.memory_format) == ("bfloat16 autocast", "channels_last")
    assert networks["a"].training
    assert report.mode == LatencyMode("bf16", True, False, 2)


@pytest.mark.parametrize("channels_last", [False, True])
def test_networks_are_timed_in_the_format_of_the_mode_whatever_theirs(channels_last):
    """As they are, one network beside its own copy of the other format was "1.40x"."""
    plain_one, other = Witness(), Witness()
    other.conv.to(memory_format=torch.channels_last)
    report = time_networks(
        {"plain": plain_one, "other": other}, (8, 9), device="cpu", **quick(latency_channels_last=channels_last)
    )
    assert plain_one.seen == other.seen == {(torch.float32, 1, channels_last, channels_last)}
    assert report.memory_formats == ["channels_last" if channels_last else "contiguous"]
    assert plain_one.conv.weight.is_contiguous() and not other.conv.weight.is_contiguous(), "both are left as they were"


def test_compiled_networks_are_compiled_before_they_are_timed(monkeypatch):
    calls = []

    def compiled(model: nn.Module, dynamic: bool) -> nn.Module:
        assert dynamic is False
        calls.append(model)
        return torch.nn.Sequential(model)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    diary: list[str] = []
    networks = {name: Sleeper(0, name, diary) for name in "ab"}
    report = time_networks(networks, (4, 4), device="cpu", **quick(latency_compile=True))
    assert calls == [*networks.values(), "reset"]
    assert report.mode.compiled
    assert len(diary) == 2 * (1 + report.warmup + report.rounds)


def test_a_network_that_cannot_be_compiled_is_one_line(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("\nNo working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    def compiled(model: nn.Module, dynamic: bool) -> nn.Module:
        broken = nn.Sequential(model)
        broken.forward = fails
        return broken

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    with pytest.raises(
        BenchError, match=r"^torch.compile failed \(No working C\+\+ compiler found\); .*leave"
    ) as caught:
        time_networks({"a": toy(2)}, (8, 8), device="cpu", **quick(latency_compile=True))
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="other"):
        time_networks({"a": toy(2), "b": Failing()}, (8, 8), device="cpu", **quick())


class Failing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("other")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"latency_amp": "fp16"}, "`latency_amp=fp16` needs a CUDA device"),
        ({"latency_batch": 1}, "`latency_batch=1` is measured in any case"),
        ({"latency_compile": True, "per_layer": True}, "leave one of them out"),
    ],
)
def test_modes_that_there_are_not(options, reason):
    with pytest.raises(UsageError, match=reason):
        LatencyMode.of(TimingOptions(**options), torch.device("cpu"))


def test_lines_of_a_table(made_up):
    networks = {"slow": Told(30), "fast": Told(10)}
    report = time_networks(networks, (10, 20), device="cpu", **quick(latency_batch=16))
    lines = list(latency_lines(report))
    assert [line[0].strip() for line in lines] == [
        "latency ms", "images/s", "Mpixels/s", "images/s, 16 at once", "Mpixels/s",
    ]  # fmt: skip
    # The medians are those of rounds in another order; what is shown is the paired ratio's.
    slow, fast = report.networks["slow"], report.networks["fast"]
    assert f"{slow.median_ms / fast.median_ms:.2f}" != "3.00"
    assert lines[0] == ["latency ms", f"{slow.median_ms:.2f}", f"{slow.median_ms / 3:.2f}", "3.00x (3.00-3.00)"]
    many = report.throughput.networks
    assert lines[3][1:] == [f"{many['slow'].fps:.1f}", "266.1", many["fast"].speedup_text()]
    assert float(lines[3][2]) == pytest.approx(3 * float(lines[3][1]))
    text = latency_conditions(report)
    assert text == f"latency: 10x20, float32, contiguous, {report.device}, 1 CPU thread, 12 rounds"
    record = plain(report)
    record["networks"]["fast"].update(speedup_low=0.99, precision="int8")
    record["mode"]["compiled"], record["threads"] = True, 2
    changed = LatencyReport.of_record(record)
    assert "no measurable difference (0.99-" in next(latency_lines(changed))[-1]
    assert "float32 and int8, contiguous, torch.compile, " in latency_conditions(changed)
    assert "2 CPU threads" in latency_conditions(changed)


def test_a_report_is_read_back_as_it_was(made_up):
    report = time_networks({"slow": Told(30), "fast": Told(10)}, (10, 20), device="cpu", **quick(latency_batch=16))
    record = plain(report)
    assert LatencyReport.of_record(record) == report
    # The first files knew neither modes nor single times.
    del record["mode"], record["throughput"], record["networks"]["fast"]["times_ms"]
    old = LatencyReport.of_record(record)
    assert (old.mode, old.throughput, old.networks["fast"].times_ms) == (LatencyMode(), None, ())
    assert old.networks["slow"] == report.networks["slow"]


def test_what_a_record_of_the_time_of_own_formats_was_timed_in(made_up):
    record = plain(time_networks({"slow": Told(30), "fast": Told(10)}, (10, 20), device="cpu", **quick()))
    record["networks"]["fast"]["memory_format"] = "channels_last"
    assert LatencyReport.of_record(record).memory_formats == ["contiguous", "channels_last"]
    record["networks"]["slow"]["memory_format"] = "channels_last"
    assert LatencyReport.of_record(record).mode == LatencyMode(channels_last=True)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1.423, 1.38, 1.47), "1.42x (1.38-1.47)"),
        ((0.8, 0.7, 0.9), "0.80x (0.70-0.90)"),
        ((1.02, 0.98, 1.05), "no measurable difference (0.98-1.05)"),
        ((1.004, 1.001, 1.006), "no measurable difference (1.00-1.01)"),
        ((1.012, 1.006, 1.02), "1.01x (1.01-1.02)"),
        ((0.99, 0.98, 0.997), "no measurable difference (0.98-1.00)"),
        ((1.0, 1.0, 1.0), "no measurable difference (1.00-1.00)"),
        ((None, None, None), "-"),
    ],
)
def test_speedup_text(numbers, text):
    assert None in numbers or str(Speedup(*numbers)) == text
    assert Latency(1, 1, 1, 1, 1, "float32", "contiguous", *numbers).speedup_text() == text


@pytest.mark.cuda
def test_cuda_events_agree_with_the_clock():
    model = toy(64).cuda()
    report = time_networks({"a": model, "b": model}, (256, 256), device="cuda", **quick())
    images = torch.rand(1, 3, 256, 256, device="cuda")
    with torch.inference_mode():
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            model(images)
            torch.cuda.synchronize()
        clock = 1000 * (time.perf_counter() - start) / 20
    assert report.networks["a"].median_ms == pytest.approx(clock, rel=1.0)
