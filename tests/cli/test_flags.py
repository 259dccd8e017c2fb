"""The flags of prune.py for methods and for a number of parameters, and what they lead to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import Outcome

from bench.errors import UsageError
from bench.measure.cost import count_parameters
from bench.models.checkpoint import load_model

Prune = Callable[..., Outcome]


@pytest.fixture
def prune(call: Callable[..., Outcome], tiny_baseline: Path, tiny_camvid: Path, tmp_path: Path) -> Prune:
    """`prune("--method", ...)` runs prune.py on the tiny baseline; the result goes to `tmp_path / "out"`."""
    common = ["--ckpt", tiny_baseline, "--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0,
              "--calib-images", 4, "--no-latency", "--no-evaluate", "--no-recalibrate",
              "--save", tmp_path / "out"]  # fmt: skip
    return lambda *flags: call("prune.py", *common, *flags)


@pytest.fixture
def parsed() -> Callable[..., Any]:
    """`parsed("--alpha", "0.3")` is what prune.py's command line holds."""
    from bench.commands import prune

    return lambda *words: prune.build_parser().parse(list(words))


def info_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "pruning_info.json").read_text(encoding="utf-8"))


def test_one_run_lands_on_the_parameters_wanted(prune: Prune, tiny_baseline: Path, tmp_path: Path) -> None:
    flags = ["--method", "papm", "--params-reduction", 0.77, "--auto-search", "--alpha", 0.3, "--norm-scale", "minmax"]
    done = prune(*flags, "--classes", 0, 3)
    assert (done.code, done.err) == (0, "")
    info = info_of(tmp_path)
    assert info["method_options"] == {"alpha": 0.3, "norm_scale": "minmax", "classes": [0, 3]}
    assert (info["target"]["kind"], info["target"]["value"], info["target"]["within"]) == ("params", 0.23, 0.005)
    whole = count_parameters(load_model(tiny_baseline).model)
    left = count_parameters(load_model(tmp_path / "out" / "pruned_model.pt").model)
    assert abs(left / whole - 0.23) <= 0.005
    search = info["plan"]["search"]
    assert 0 < search["threshold"] < 1
    # A bisection over some 600 channels, and the neighbour.
    assert 2 < search["networks_costed"] <= 12
    line = re.search(r"threshold (\S+), found by costing (\d+) networks: (\S+) of the parameters are kept", done.out)
    assert line[1] == f"{search['threshold']:.6g}"
    assert int(line[2]) == search["networks_costed"]
    assert line[3] == f"{left / whole:.2%}"


def test_the_threshold_parts_what_stays_from_what_goes(prune: Prune, tmp_path: Path) -> None:
    import torch

    assert prune("--method", "papm", "--params-reduction", 0.5, "--auto-search").code == 0
    info = info_of(tmp_path)
    scores = torch.load(tmp_path / "out" / info["scores"], weights_only=True)["scores"]
    threshold, kept = info["plan"]["search"]["threshold"], info["plan"]["kept"]
    gone = torch.cat([score[[c not in kept[name] for c in range(len(score))]] for name, score in scores.items()])
    stay = torch.cat([score[kept[name]] for name, score in scores.items()])
    assert gone.max().item() == threshold <= stay.min().item()


def test_without_the_search_the_closest_is_taken(prune: Prune, tmp_path: Path) -> None:
    flags = ["--method", "papm", "--params-reduction", 0.35, "--round-to", 32]
    refused = prune(*flags, "--auto-search")
    assert refused.code == 1
    assert re.search(r"the closest to 65\.00% of the params that whole channels reach is \d\d\.\d\d%, ", refused.err)
    assert "more than 0.5% of the network away; lower --round-to or leave --auto-search out\n" in refused.err
    assert not (tmp_path / "out" / "pruned_model.pt").exists()
    done = prune(*flags)
    assert (done.code, "threshold" in done.out) == (0, False)
    info = info_of(tmp_path)
    assert info["target"]["within"] is None
    assert abs(info["cost"]["change"]["parameters_percent"] + 35) > 0.5


def test_the_record_names_the_saved_model_and_its_classes(prune: Prune, tmp_path: Path) -> None:
    assert prune("--method", "l1_global", "--global-ratio", 0.5).code == 0
    info = info_of(tmp_path)
    assert info["saved_model"] == str(tmp_path / "out" / "pruned_model.pt")
    assert (info["model"]["name"], info["model"]["input_size"]) == ("unet_small", [48, 64])
    assert (len(info["model"]["classes"]), info["model"]["classes"][0]) == (11, "sky")
    assert (info["method"], info["target"]["value"]) == ("l1_global", 0.5)
    for stage in ("before", "after"):
        assert {"parameters", "flops"} <= info["cost"][stage].keys()
    assert info["cost"]["change"]["parameters_percent"] < 0 > info["cost"]["change"]["flops_percent"]
    assert info["plan"]["skipped_groups"] == ["downs.0.conv.0"]
    assert len(info["plan"]["kept"]["downs.0.conv.0"]) == 16


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "taylor", "--alpha", 0.5], "unknown option of taylor 'alpha'; known: term"),
        (["--method", "l1", "--classes", 0], "l1 has no options; 'classes' is not one"),
        (["--method", "papm", "--alpha", 0.5, "--opt", "alpha=0.5"], "--alpha is short for --opt alpha=; pass one"),
        (["--method", "papm", "--norm-scale", "sum"], "option norm_scale of papm must be max, raw, minmax, not 'sum'"),
        (["--method", "papm", "--classes", -1], "argument --classes: -1 is too small; at least 0"),
        (["--method", "papm", "--classes", 0, 11], "option classes of papm names 11, which is no class"),
        (["--method", "l1", "--auto-search"], "but l1 ranks with --scope local; pass --scope global or leave it out"),
        (["--method", "papm", "--scope", "isomorphic", "--auto-search"], "but papm ranks with --scope isomorphic"),
    ],
)
def test_flags_that_cannot_be(prune: Prune, flags: list[object], message: str) -> None:
    refused = prune(*flags, "--params-reduction", 0.5)
    assert refused.code == 2
    assert message in refused.err and refused.err.count("\n") == 1


def test_a_search_is_for_parameters(prune: Prune) -> None:
    refused = prune("--method", "papm", "--global-ratio", 0.5, "--auto-search")
    assert (refused.code, "--auto-search looks for a number of parameters" in refused.err) == (2, True)
    refused = prune("--method", "papm", "--sensitivity", "--auto-search")
    assert (refused.code, "leave --auto-search out" in refused.err) == (2, True)


def test_a_list_in_every_spelling(parsed: Callable[..., Any], tmp_path: Path) -> None:
    from bench.cli.method_flags import method_settings

    def settings(*words: str) -> dict[str, Any]:
        return method_settings(parsed(*words))

    def config(text: str) -> dict[str, Any]:
        (tmp_path / "papm.yaml").write_text(text)
        return settings("--config", str(tmp_path / "papm.yaml"))

    wanted = {"classes": [0, 3], "alpha": 0.25}
    assert settings("--classes", "0", "3", "--alpha", "0.25") == wanted
    assert settings("--opt", "classes=[0,3],alpha=0.25") == wanted
    assert settings("--opt", "alpha=0.25", "--classes", "0", "3") == wanted
    assert config("opt: {classes: [0, 3], alpha: 0.25}") == wanted
    assert config("classes: [0, 3]\nalpha: 0.25") == wanted
    assert config("classes: 3") == {"classes": [3]}
    assert settings() == {}


def test_a_reduction_is_a_share_to_keep(parsed: Callable[..., Any]) -> None:
    assert parsed("--params-reduction", "0.77").target_params == 0.23
    assert parsed("--params-reduction", "0").target_params == 1
    with pytest.raises(UsageError, match=r"1 is not in \[0, 1\)"):
        parsed("--params-reduction", "1")
