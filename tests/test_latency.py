"""Timing: the protocol, and what it says of networks that differ or do not."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from torch import nn

from bench.latency import Latency, paired_interval, speedup_text, time_networks
from bench.options import MeasureOptions
from bench.runs import plain


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


def quick(**changes) -> MeasureOptions:
    return MeasureOptions(**{"latency_warmup": 2, "latency_runs": 12, **changes})


def test_rounds_are_interleaved_and_no_network_has_the_better_place():
    diary: list[str] = []
    networks = {name: Sleeper(0, name, diary).train() for name in "abc"}
    report = time_networks(networks, (4, 4), device="cpu", options=quick(latency_runs=300))
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


def test_known_speedup():
    diary: list[str] = []
    networks = {"slow": Sleeper(0.012, "slow", diary), "fast": Sleeper(0.003, "fast", diary)}
    report = time_networks(networks, (50, 20), device="cpu", batch=2, options=quick())
    slow, fast = report.networks["slow"], report.networks["fast"]
    assert slow.median_ms >= 12
    assert 2.5 < fast.speedup <= 4.5
    assert fast.speedup_low > 1
    assert fast.p10_ms <= fast.median_ms <= fast.p90_ms
    assert fast.fps == pytest.approx(2000 / fast.median_ms)
    assert fast.pixels_per_second == pytest.approx(1000 * fast.fps)
    assert (slow.speedup, slow.speedup_low, slow.speedup_high) == (None, None, None)


def test_network_against_itself_is_not_told_apart():
    model = toy(24)
    report = time_networks(
        {"dense": model, "same": model}, (48, 64), device="cpu", options=quick(latency_warmup=10, latency_runs=100)
    )
    same = report.networks["same"]
    assert same.speedup == pytest.approx(1, abs=0.08)
    # One true null in twenty misses a 95 % interval; the slack keeps this test from failing on those.
    assert same.speedup_low <= 1.03
    assert same.speedup_high >= 0.97


def test_wider_network_is_told_apart():
    report = time_networks({"wide": toy(64), "narrow": toy(16)}, (48, 64), device="cpu", options=quick())
    assert report.networks["narrow"].speedup_low > 1.5


def test_time_limit_stops_warmup_and_timing_but_not_below_the_minimum():
    diary: list[str] = []
    report = time_networks(
        {"a": Sleeper(0.005, "a", diary)},
        (4, 4),
        device="cpu",
        options=quick(latency_warmup=1000, latency_runs=1000, latency_seconds=0.001),
    )
    assert (report.warmup, report.rounds) == (3, 10)
    assert len(diary) == 13


def test_few_runs_are_raised_to_the_minimum():
    report = time_networks({"a": toy(2)}, (8, 8), device="cpu", options=quick(latency_warmup=0, latency_runs=1))
    assert (report.warmup, report.rounds) == (0, 10)


def test_record_states_the_conditions():
    networks = {
        "plain": toy(4),
        "last": toy(4).to(memory_format=torch.channels_last),
        "half": toy(4).to(torch.bfloat16),
    }
    record = plain(time_networks(networks, (7, 9), device="cpu", options=quick()).as_dict())
    assert record["input_size"] == [7, 9]
    assert record["threads"] == 1
    assert record["batch"] == 1
    assert record["device"]
    assert list(record["networks"]) == ["plain", "last", "half"]
    assert [entry["memory_format"] for entry in record["networks"].values()] == [
        "contiguous",
        "channels_last",
        "contiguous",
    ]
    assert [entry["precision"] for entry in record["networks"].values()] == ["float32", "float32", "bfloat16"]


def test_interval_is_seeded_and_holds_the_median():
    ratios = np.random.default_rng(1).lognormal(0.5, 0.1, 100)
    median, low, high = paired_interval(ratios)
    assert median == np.median(ratios)
    assert low < median < high
    assert (median, low, high) == paired_interval(ratios)


def test_interval_of_constant_ratios_is_a_point():
    assert paired_interval(np.full(10, 1.5)) == (1.5, 1.5, 1.5)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        _, low, high = paired_interval(np.exp(random.standard_t(3, 50) * 0.1))
        hits += low <= 1 <= high
    assert 180 <= hits <= 200


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1.423, 1.38, 1.47), "1.42x (1.38-1.47)"),
        ((0.8, 0.7, 0.9), "0.80x (0.70-0.90)"),
        ((1.02, 0.98, 1.05), "no measurable difference (0.98-1.05)"),
        ((1.0, 1.0, 1.0), "no measurable difference (1.00-1.00)"),
        ((None, None, None), "-"),
    ],
)
def test_speedup_text(numbers, text):
    assert speedup_text(*numbers) == text
    assert Latency(1, 1, 1, 1, 1, "float32", "contiguous", *numbers).speedup_text() == text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_events_agree_with_the_clock():
    model = toy(64).cuda()
    report = time_networks({"a": model, "b": model}, (256, 256), device="cuda", options=quick())
    images = torch.rand(1, 3, 256, 256, device="cuda")
    with torch.inference_mode():
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            model(images)
            torch.cuda.synchronize()
        clock = 1000 * (time.perf_counter() - start) / 20
    assert report.networks["a"].median_ms == pytest.approx(clock, rel=1.0)
