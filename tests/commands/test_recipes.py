"""The training recipes: one for every network on every data set, read by the commands that train."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from option_groups import script_parser
from PIL import Image
from scripts import Outcome

from bench.cli.config_file import RECIPES_FILE, recipes_for
from bench.cli.parser import collect
from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.errors import UsageError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.checkpoint import SavedModel
from bench.models.options import ModelOptions
from bench.sweep.finetune_all import finetune_recipe
from bench.system.files import read_json
from bench.training.optimizer import learning_rate
from bench.training.options import FinetuneOptions, TrainOptions
from bench.training.state import run_identity
from bench.training.step import TrainingLoss, new_state, take_step

RECIPES = recipes_for([])
STEPS = 2
TINY = ("--batch-size", "2", "--input-size", "32,32", "--crop-size", "32,32", "--num-workers", "0")


@pytest.fixture(scope="module")
def tiny_cityscapes(tmp_path_factory) -> Path:
    """Frames of noise in Cityscapes' layout, 32x64."""
    root, generator = tmp_path_factory.mktemp("data") / "cityscapes", np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        images, labels = root / "leftImg8bit" / split / "ulm", root / "gtFine" / split / "ulm"
        for folder in (images, labels):
            folder.mkdir(parents=True)
        for number in range(count):
            image, ids = generator.integers(0, 256, (32, 64, 3)), generator.integers(0, 34, (32, 64))
            Image.fromarray(image.astype(np.uint8)).save(images / f"ulm_{number:06}_000019_leftImg8bit.png")
            Image.fromarray(ids.astype(np.uint8)).save(labels / f"ulm_{number:06}_000019_gtFine_labelIds.png")
    return root


@pytest.fixture(scope="module")
def roots(tiny_camvid, tiny_cityscapes) -> dict[str, Path]:
    return {"camvid": tiny_camvid, "cityscapes": tiny_cityscapes, "synthetic": tiny_camvid}


def test_every_network_has_a_recipe_for_both_data_sets():
    assert {f"{data}/{model}" for data in ("camvid", "cityscapes") for model in MODELS} <= RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_that_of_its_name_and_says_all_that_matters(name):
    settings = RECIPES[name]
    assert name == f"{settings['dataset']}/{settings['model']}"
    assert {"epochs", "batch-size", "crop-size", "lr", "finetune-epochs", "finetune-lr"} <= settings.keys()
    if settings["dataset"] != "synthetic":
        assert {"optimizer", "weight-decay", "schedule", "compute-class-weights"} <= settings.keys()
    # benchmark.py trains and fine-tunes: it has a flag for every key.
    keys = script_parser("benchmark.py").config_keys
    assert settings.keys() <= keys


def shallower(name: str) -> str:
    """The recipe of the network that a recipe's differs from in depth or width alone, itself where there is none."""
    return re.sub(r"segformer_b\d", "segformer_b0", name).replace("resnet101", "resnet50")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != shallower(name)])
def test_a_deeper_network_has_the_recipe_of_the_shallower_one(name):
    assert {**RECIPES[name], "model": None} == {**RECIPES[shallower(name)], "model": None}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(map(shallower, RECIPES))))
def test_a_recipe_trains(name, roots):
    """Some steps of the whole recipe but for its sizes, then one of its fine-tuning."""
    settings = RECIPES[name]
    root = roots[settings["dataset"]]
    words = ["--recipe", name, "--data-root", str(root), *TINY]
    if settings["dataset"] == "synthetic":
        words += ["--dataset", "camvid"]
    arguments = script_parser("benchmark.py").parse(words)
    options, model = collect(TrainOptions, arguments), collect(ModelOptions, arguments).model
    assert (options.epochs, options.lr, model) == (settings["epochs"], settings["lr"], settings["model"])
    data = SegmentationData(collect(DataOptions, arguments))
    spec = ModelSpec(model, data.classes.outputs)
    saved = SavedModel(build_model(spec).train(), spec)
    before = {key: tensor.clone() for key, tensor in saved.model.named_parameters()}
    device = torch.device("cpu")
    finetune = finetune_recipe(options, collect(FinetuneOptions, arguments))
    assert (finetune.epochs, finetune.lr) == (settings["finetune-epochs"], settings["finetune-lr"])
    for recipe, steps in ((options, STEPS), (finetune, 1)):
        loss = TrainingLoss(data, recipe, device, None)
        state = new_state(saved, recipe, device, run_identity(saved, data, recipe, 0, 1), data.files("train"))
        batches = iter(data.train_loader(recipe.batch_size, crop_size=recipe.crop_size))
        for step in range(steps):
            value = loss(saved.model, *next(batches))
            assert torch.isfinite(value)
            value.backward()
            take_step(state, recipe, step, recipe.epochs * STEPS)
            assert state.optimizer.param_groups[0]["lr"] == learning_rate(recipe, step, recipe.epochs * STEPS)
    assert all(torch.isfinite(tensor).all() for tensor in saved.model.parameters())
    assert any(not torch.equal(tensor, before[key]) for key, tensor in saved.model.named_parameters())


@pytest.mark.slow
def test_the_commands_read_a_recipe(call: Callable[..., Outcome], tiny_camvid, tmp_path):
    """train.py, benchmark.py and finetune_batch.py; what is typed counts more, wherever it stands."""

    def run(script: str, *flags: object) -> Outcome:
        small = ["--input-size", "32,64", "--crop-size", "32,64", "--num-workers", 0, "--data-root", tiny_camvid]
        result = call(script, *small, "--recipe", "camvid/unet_small", *flags)
        assert (result.code, result.err) == (0, ""), result.out
        return result

    shown = run("train.py", "--epochs", 1, "--batch-size", 4, "--save", tmp_path / "trained").out
    assert shown.startswith("recipe camvid/unet_small of ")
    assert "left out what only other commands have: finetune-epochs, finetune-lr\n" in shown
    config = read_json(tmp_path / "trained" / "config.json")
    recipe = RECIPES["camvid/unet_small"]
    assert (config["dataset"], config["model"]) == ("camvid", "unet_small")
    assert (config["lr"], config["weight_decay"]) == (recipe["lr"], recipe["weight-decay"])
    assert config["compute_class_weights"] is True
    assert (config["epochs"], config["batch_size"], config["crop_size"]) == (1, 4, [32, 64])

    baseline, out = tmp_path / "trained" / "best.pt", tmp_path / "out"
    comparison = ["--methods", "l1", "--ratios", 0.3, "--no-latency", "--baseline", baseline, "--out-dir", out]
    run("benchmark.py", *comparison, "--finetune-epochs", 1, "--batch-size", 4)
    (path,) = out.glob("*/finetuned_report.json")
    tuned = read_json(path)["finetune"]["recipe"]
    assert (tuned["epochs"], tuned["lr"], tuned["weight_decay"]) == (1, recipe["finetune-lr"], recipe["weight-decay"])
    path.unlink()
    files = ["--benchmark-dir", out, "--baseline", baseline, "--no-latency"]
    run("finetune_batch.py", *files, "--finetune-epochs", 1, "--batch-size", 4)
    assert read_json(path)["finetune"]["recipe"] == tuned


# --- which recipe, from which file


def written(folder: Path, name: str, text: str) -> tuple[str, str]:
    (folder / name).write_text(text)
    return "--config", str(folder / name)


def train_options(*words: str) -> TrainOptions:
    return collect(TrainOptions, script_parser("train.py").parse([*words]))


def test_the_projects_file_needs_no_naming(project_root):
    named = train_options("--config", str(project_root / RECIPES_FILE), "--recipe", "camvid/segnet")
    assert train_options("--recipe", "camvid/segnet") == named
    assert (named.lr, named.batch_size, named.crop_size, named.compute_class_weights) == (0.1, 12, (360, 480), True)


def test_configs_and_flags_count_more_than_a_recipe(tmp_path):
    words = ["--recipe", "camvid/segnet", *written(tmp_path, "c.yaml", "lr: 0.5\nmomentum: 0.5\n"), "--lr", "0.2"]
    options = train_options(*words)
    assert (options.lr, options.momentum, options.batch_size) == (0.2, 0.5, 12)


def test_a_recipe_may_be_named_in_a_file_and_lie_in_another(tmp_path):
    named = written(tmp_path, "c.yaml", "recipe: mine\n")
    own = written(tmp_path, "r.yaml", "recipes:\n  mine: {lr: 0.25, epochs: 3}\n  other: {lr: 0.125}\nseed: 4\n")
    assert train_options(*named, *own) == TrainOptions(lr=0.25, epochs=3)
    assert train_options(*named, *own, "--recipe", "other") == TrainOptions(lr=0.125)
    # A file that says more than recipes serves without one.
    assert script_parser("train.py").parse([*own]).seed == 4


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        ("recipes: {mine: {lr: 1}}", ["--recipe", "mime"], r"unknown recipe 'mime'; did you mean mine\?"),
        ("recipes: {mine: {lr: 1}}", [], "holds recipes; choose one with --recipe, --list-recipes names them"),
        ("recipes: {mine: {lrr: 1}}", ["--recipe", "mine"], "recipe mine of .*: unknown key 'lrr'"),
        ("recipes: {mine: 1}", ["--recipe", "mine"], "recipes must be a mapping of names to mappings"),
        ("recipes: [1]", ["--recipe", "mine"], "recipes must be a mapping of names to mappings"),
        ("recipes: {mine: {lr: 0}}", ["--recipe", "mine"], "argument --lr: 0 is too small"),
        ("", ["--recipe", "camvid/segnt"], "unknown recipe 'camvid/segnt'; did you mean camvid/segnet"),
    ],
)
def test_a_wrong_recipe_is_a_usage_error(text, words, says, tmp_path):
    with pytest.raises(UsageError, match=says) as caught:
        train_options(*written(tmp_path, "r.yaml", text), *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", ["train.py", "benchmark.py", "finetune_batch.py"])
def test_recipes_are_listed(script, call, tmp_path):
    result = call(script, "--list-recipes")
    assert (result.code, result.err) == (0, "")
    assert [line.split()[0] for line in result.out.splitlines()] == list(RECIPES)
    assert "epochs=300 batch-size=12 crop-size=360,480" in result.out
    own = written(tmp_path, "r.yaml", "recipes: {mine: {lr: 0.25}}")
    assert call(script, *own, "--list-recipes").out.split() == ["mine", "lr=0.25"]


def test_commands_that_do_not_train_whole_networks_have_no_recipes(call, tmp_path, capsys):
    for script in ("prune.py", "eval.py"):
        assert "unrecognized arguments: --recipe" in call(script, "--recipe", "camvid/segnet").err
    # But a file that names one serves them too.
    script_parser("eval.py").parse([*written(tmp_path, "c.yaml", "recipe: camvid/segnet\nrecipes: {a: {lr: 1}}\n")])
    assert "left out what only other commands have: recipe\n" in capsys.readouterr().out
