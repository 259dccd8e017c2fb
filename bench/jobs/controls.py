"""Controls of a pruning: the shape of the pruned network, trained from new weights.

Pruning is worth its trouble where its network does better than a small one of the same shape that was never large (Liu
et al., "Rethinking the Value of Network Pruning", ICLR 2019). Such a network is trained for every pruned one: by the
recipe of its fine-tuning, and by that of the baseline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from bench.cut.network import fresh_network
from bench.errors import BenchError, UsageError
from bench.jobs.finetuning import Place, files_of, keep_trained, recipe_of, report_of, train_in
from bench.jobs.options import SCRATCH, SCRATCH_FULL
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport
from bench.models.checkpoint import SavedModel, load_model
from bench.models.state_dict_file import read_file
from bench.system.console import say
from bench.system.files import digest, file_digest
from bench.system.run_folder import CONTROLS, PRUNED
from bench.torch_utils.sparse_weights import SPARSE
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.step import Knobs

PLACES = {
    SCRATCH: Place(*CONTROLS[SCRATCH], "control", "scratch"),
    SCRATCH_FULL: Place(*CONTROLS[SCRATCH_FULL], "control", "scratch_full"),
}


@dataclass(frozen=True)
class Control:
    """One control of every job.

    Attributes:
        kind: `scratch` or `scratch-full`.
        recipe: how it is trained.
        distillation: the teacher that is part of it, if there is one.
        check: whether the groups of the prunings were tried out.
    """

    kind: str
    recipe: TrainOptions
    distillation: Distillation | None
    check: bool

    @property
    def place(self) -> Place:
        """Where in a job's folder it is kept."""
        return PLACES[self.kind]


def check_controls(kinds: Collection[str], finetune: TrainOptions | None) -> None:
    """Finds what is wrong with a request for controls before there is a baseline; `controls_of` says what that is."""
    if SCRATCH in kinds and finetune is None:
        raise UsageError(
            "`controls=scratch` trains as fine-tuning does, and there is none; pass `finetune_epochs`, or "
            "`controls=scratch-full`"
        )


def controls_of(
    kinds: Collection[str],
    baseline: Baseline,
    finetune: TrainOptions | None,
    distillation: Distillation | None,
    training: TrainOptions,
    given: Collection[str],
    *,
    check: bool,
) -> list[Control]:
    """The controls that were asked for.

    Args:
        kinds: their names.
        baseline: its file says how it was trained.
        finetune: the recipe of fine-tuning, or None.
        distillation: the teacher of fine-tuning, if there is one.
        training: what the flags say of training, for a baseline whose file says nothing.
        given: the fields of it that were asked for and are no mere defaults.
        check: whether the groups of the prunings are tried out.

    Raises:
        UsageError: a control that is trained like fine-tuning where there is none; nothing says how the baseline was
            trained, or the flags and its file say different things.
    """
    check_controls(kinds, finetune)
    controls = []
    if SCRATCH in kinds:
        controls.append(Control(SCRATCH, _from_nothing(finetune), distillation, check))
    if SCRATCH_FULL in kinds:
        recipe = recipe_of_baseline(baseline.saved.meta, baseline.checkpoint, training, given)
        controls.append(Control(SCRATCH_FULL, _from_nothing(recipe), None, check))
    return controls


def recipe_of_baseline(
    meta: Mapping[str, Any], checkpoint: Path, training: TrainOptions, given: Collection[str]
) -> TrainOptions:
    """How a baseline was trained: as its file says, or else as the flags do.

    Args:
        meta: of the file.
        checkpoint: the file, for messages.
        training: what the flags say.
        given: the fields of it that were asked for.

    Raises:
        UsageError: neither says the epochs and the rate, or they contradict each other.
    """
    said, budget = meta.get("options", {}), ("epochs", "lr")
    if not all(name in said for name in budget):
        if all(name in given for name in budget):
            return training
        raise UsageError(
            f"{checkpoint} does not say how it was trained; pass the `epochs` and `lr` of its training for "
            "`controls=scratch-full`"
        )
    for name in budget:
        if name in given and getattr(training, name) != said[name]:
            raise UsageError(
                f"{checkpoint} was trained with `{name}={said[name]}`, and so is `controls=scratch-full`; leave "
                f"`{name}={getattr(training, name)}` out"
            )
    known = {spec.name for spec in fields(TrainOptions)}
    recipe = TrainOptions(**{name: value for name, value in said.items() if name in known})
    return replace(recipe, crop_size=recipe.crop_size and tuple(recipe.crop_size))


def _from_nothing(recipe: TrainOptions) -> TrainOptions:
    """A recipe for new weights: a backbone that has learnt nothing is neither frozen nor slowed down."""
    return replace(recipe, backbone_lr_factor=1.0, freeze_backbone_epochs=0, tensorboard=False)


def train_control(baseline: Baseline, folder: Path, control: Control, seed: int) -> EvaluationReport:
    """Trains the control of a job, unless that was done, there or in a job whose network has the same shape.

    The folder receives `scratch_model.pt` and `scratch_report.json`, or `scratch_full_model.pt` and its report; an
    interrupted run goes on where it stopped.

    Args:
        baseline: the images, and what it is compared with.
        folder: the job's, with `pruned_model.pt` in it.
        control: which, and how it is trained.
        seed: of the weights and of the training.

    Returns:
        What the report says.
    """
    recipe, place = _recipe(folder, control, seed), control.place
    done = report_of(folder, place, recipe)
    if done is not None and files_of(baseline).fits(done.get("data"), f"{place.model} of {folder.name} was trained"):
        return done
    twin = _twin(baseline, folder, control, recipe)
    if twin is not None:
        say(f"{place.model} of {folder.name} is that of {twin.name}, whose network has the same shape")
        record = report_of(twin, place, recipe)[place.part]
        return keep_trained(baseline, folder, place, load_model(twin / place.model), record)
    pruned = load_model(folder / PRUNED, outputs=baseline.data.classes.outputs)
    saved = anew(pruned, seed, check=control.check)
    knobs = Knobs(lr="`finetune_lr`" if control.kind == SCRATCH else "`lr`")
    how = {"distillation": control.distillation, "label": f"control {control.kind}", "knobs": knobs}
    return train_in(baseline, folder, place, saved, control.recipe, recipe, **how)


def kept_control(baseline: Baseline, folder: Path, control: Control, seed: int) -> EvaluationReport | None:
    """The report of a job's control on the images there are now; None where it is to be trained."""
    done = report_of(folder, control.place, _recipe(folder, control, seed))
    return None if done is None or files_of(baseline).changed_since(done.get("data")) else done


def anew(pruned: SavedModel, seed: int, *, check: bool) -> SavedModel:
    """A network of the same shape with new weights, as its factory draws them; of sparse ones the zeros stay.

    Which channels were kept has no part in it, only how many.

    Args:
        pruned: the network.
        seed: of the weights.
        check: whether the groups that it was pruned by were tried out.

    Raises:
        BenchError: the factory makes another network now.
    """
    kept = {group: list(range(len(channels))) for group, channels in pruned.channels.items()}
    network = fresh_network(pruned.spec, kept, seed, check=check)
    before, after = pruned.model.state_dict(), network.state_dict()
    other = next((name for name in before if before[name].shape != getattr(after.get(name), "shape", None)), None)
    if other is not None:
        raise BenchError(f"a new {pruned.spec.name} of the shape of the pruned one has another {other}")
    with torch.no_grad():
        for name in pruned.meta.get(SPARSE, ()):
            network.get_parameter(name).mul_(before[name] != 0)
    # It was never pruned.
    meta = {name: value for name, value in pruned.meta.items() if name != "pruning"}
    return SavedModel(network, pruned.spec, kept, meta)


def _recipe(folder: Path, control: Control, seed: int) -> dict[str, Any]:
    """All that decides the numbers of a control but the images."""
    content = read_file(folder / PRUNED)
    widths = {group: len(channels) for group, channels in content["channels"].items()}
    # Zeros within a tensor are of the one network alone.
    zeros = file_digest(folder / PRUNED) if content["meta"].get(SPARSE) else None
    shape = digest([content["model"], widths, zeros])
    return {**recipe_of(control.recipe, seed, control.distillation), "shape": shape}


def _twin(baseline: Baseline, folder: Path, control: Control, recipe: Mapping[str, Any]) -> Path | None:
    """Another job of the benchmark whose control is the same training, and done."""
    others: Sequence[Path] = sorted(path.parent for path in folder.parent.glob(f"*/{control.place.report}"))
    for other in others:
        done = report_of(other, control.place, recipe) if other != folder else None
        if done is not None and not files_of(baseline).changed_since(done.get("data")):
            return other
    return None
