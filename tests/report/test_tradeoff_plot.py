"""mIoU over cost: which lines are drawn where, and how they look."""

from __future__ import annotations

from typing import Any

import pytest

from bench.report.method_looks import LOOKS, look_of
from bench.report.tradeoff_plot import Benchmark, lines_of, plot_tradeoffs

BASELINE = {"model": "unet", "dataset": "camvid", "split": "test", "input_size": [48, 64], "miou": 0.5}


def row(method: str, ratio: float = 0.5, seed: int = 0, **changes: Any) -> dict[str, Any]:
    done = {"method": method, "target": "channels", "ratio": ratio, "seed": seed, "status": "done"}
    timed = {"speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    return {**done, **timed, "macs_kept": 1 - ratio, "miou_cut": 0.3, **changes}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws benchmarks; returns for each panel its x-axis and the lines: what they were drawn by."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    found: list[tuple[Axes, tuple, dict]] = []
    legends: list[list[str]] = []
    errorbar, legend = Axes.errorbar, Figure.legend

    def noting(self: Axes, *points: Any, **how: Any) -> Any:
        found.append((self, points, how))
        return errorbar(self, *points, **how)

    def noting_legend(self: Figure, handles: Any, labels: Any, **how: Any) -> Any:
        legends.append(list(labels))
        return legend(self, handles, labels, **how)

    monkeypatch.setattr(Axes, "errorbar", noting)
    monkeypatch.setattr(Figure, "legend", noting_legend)

    def draw(*benchmarks: Benchmark) -> tuple[list[tuple[str, tuple, dict]], list[str]]:
        assert plot_tradeoffs(tmp_path / "plot.png", benchmarks)
        ((labels),) = legends
        return [(axes.get_xlabel(), points, how) for axes, points, how in found], labels

    return draw


def test_a_method_has_its_look_in_both_panels_and_one_legend(drawn):
    lines, legend = drawn(Benchmark(BASELINE, [row(method) for method in LOOKS]))
    assert [axis for axis, _, _ in lines] == ["MACs kept (%)"] * len(LOOKS) + [
        "latency (% of the baseline's, paired)"
    ] * len(LOOKS)
    assert legend == ["baseline", *LOOKS]
    for _, _, how in lines:
        look = LOOKS[how["label"]]
        assert (how["color"], how["linestyle"], how["marker"]) == (look.colour, look.linestyle, look.marker)


def test_points_are_where_the_rows_say(drawn):
    rows = [row("l1", 0.5, seed, miou_cut=0.3 + 0.02 * seed) for seed in range(2)]
    rows += [row("l1", 0.25, speedup=1.25), row("l1", 0.75, speedup=None, speedup_low=None, speedup_high=None)]
    lines, _ = drawn(Benchmark(BASELINE, rows))
    (_, over_macs, how), (_, over_latency, _) = lines
    assert over_macs == (pytest.approx((25, 50, 75)), pytest.approx((30, 31, 30)))
    assert how["yerr"] == pytest.approx((0, 2**0.5, 0))
    # Half the time at a speed-up of 2; what was not timed has no place.
    assert over_latency == (pytest.approx((50, 80)), pytest.approx((31, 30)))


def test_where_nothing_was_timed_there_is_one_panel(drawn):
    untimed = {"speedup": None, "speedup_low": None, "speedup_high": None}
    lines, _ = drawn(Benchmark(BASELINE, [row("l1", **untimed)]))
    assert [axis for axis, _, _ in lines] == ["MACs kept (%)"]


def test_a_method_that_was_not_scored_at_the_stage_of_the_plot_is_named(drawn):
    tuned = row("l1", miou_finetuned=0.4)
    lines, legend = drawn(Benchmark(BASELINE, [tuned, row("l2"), row("fpgm", status="failed")]))
    assert {how["label"] for _, _, how in lines} == {"l1"}
    assert legend == ["baseline", "l1", "l2: not after fine-tuning"]


def test_what_has_no_share_of_macs_is_not_drawn(tmp_path):
    sparse = row("magnitude", target="sparsity", macs_kept=1.0)
    assert not plot_tradeoffs(tmp_path / "plot.png", [Benchmark(BASELINE, [sparse])])
    assert not plot_tradeoffs(tmp_path / "plot.png", [Benchmark(BASELINE, [])])
    assert not list(tmp_path.iterdir())


def test_lines_of_one_method_are_told_apart_by_their_markers_fill():
    rows = [row("taylor", method_options={"term": term}) for term in ("gate", "gamma")]
    lines = lines_of([Benchmark(BASELINE, rows, "a"), Benchmark(BASELINE, [row("taylor")], "b")])
    assert [(line.label, line.fill) for line in lines] == [
        ("taylor term=gate (a)", "full"), ("taylor term=gamma (a)", "none"), ("taylor (b)", "left"),
    ]  # fmt: skip
    assert {line.look for line in lines} == {look_of("taylor")}
    assert [line.label for line in lines_of([Benchmark(BASELINE, [row("l1")], "a")])] == ["l1"]


@pytest.mark.filterwarnings("error")
def test_panels_keep_their_size_beside_a_long_legend(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    panels: list[tuple[float, float]] = []
    save = Figure.savefig

    def measured(self: Figure, *where: Any, **how: Any) -> None:
        save(self, *where, **how)
        panels.append(tuple(self.axes[0].get_position().size * self.get_size_inches()))

    monkeypatch.setattr(Figure, "savefig", measured)
    ways = [{"recalibration_images": number, "repair_images": number, "repair_balance": number} for number in range(30)]
    for rows in ([row("l1")], [row("l1", pruning_options=way) for way in ways]):
        plot_tradeoffs(tmp_path / "plot.png", [Benchmark(BASELINE, rows)])
    for width, height in panels:
        assert width > 4 and height > 3, panels
