"""The base classes of pruning methods: a method is a score for every coupled channel; all that follows is shared.

A method that zeroes single weights instead of removing channels is a `Sparsifier`; the two have their options in
common, and what is done with a network afterwards.
"""

from __future__ import annotations

import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.errors import UsageError, unknown_name
from bench.models.checkpoint import SavedModel
from bench.plan.macs_budget import Budget
from bench.plan.pruning_plan import Scores
from bench.plan.target import Goal
from bench.training.options import TrainOptions

if TYPE_CHECKING:
    from bench.data import SegmentationData


@dataclass(frozen=True)
class Calibration:
    """What a method may look at besides the weights.

    Attributes:
        batches: (images float32 [N, 3, H, W], labels int64 [N, H, W]) from the training split, without
            augmentation; empty for methods that need no data.
        ignore_index: label id left out of the loss.
        seed: seed of everything random in a method.
        budget: the MACs to aim at, for methods that need a target.
        learnt: what the method's `prepare` learnt besides the weights.
    """

    batches: Sequence[tuple[Tensor, Tensor]]
    ignore_index: int
    seed: int
    budget: Budget | None = None
    learnt: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What a method trains with that trains a network before it scores it.

    Attributes:
        data: training and validation images, ordered and augmented by the seed.
        groups: the prunable groups of the network.
        seed: seed of everything random in the training.
        device: where to run; the network is there.
        folder: for the files of an unfinished training, to go on from; they are removed when it is finished.
        budget: as in `Calibration`.
        recipe: what the user asked of every training: `crop_size`, `amp` and `channels_last` are for the method's, too;
            what else is in it belongs to others.
    """

    data: SegmentationData
    groups: Sequence[ChannelGroup]
    seed: int
    device: torch.device
    folder: Path
    budget: Budget | None = None
    recipe: TrainOptions = field(default_factory=TrainOptions)


@dataclass(frozen=True)
class Preparation:
    """What came of a training before the scoring, besides the network.

    Attributes:
        spent: plain data: at least `epochs`, `steps` and `images`, all that were passed through the network.
        learnt: tensors the score needs.
    """

    spent: dict[str, Any]
    learnt: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method; a subclass's dataclass fields are its options, and what their `option` says is shown.

    Attributes:
        name: the registered name.
        paper: where the method was published.
        revision: raised when the method comes to give other scores, so that those kept on disk are not taken for its.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    revision: ClassVar[int] = 1

    @property
    def identity(self) -> dict[str, Any]:
        """What names a revision in all that is found again by content; nothing for the first."""
        return {"revision": self.revision} if self.revision > 1 else {}

    def aim(self, goal: Goal) -> Goal:
        """The goal in the method's own terms.

        Raises:
            UsageError: the method reaches no goal of that kind.
        """
        return goal

    @classmethod
    def option_lines(cls) -> list[str]:
        """One line an option: how its default is written, and what it means."""
        known = [spec for spec in fields(cls) if spec.init]
        settings = {spec.name: f"{spec.name}={json.dumps(spec.default)}".replace('"', "") for spec in known}
        width = max(map(len, settings.values()), default=0)
        return [f"{settings[spec.name]:{width}}  {spec.metadata.get('help', '')}".rstrip() for spec in known]

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Method:
        """Builds the method from option names and values, checked against its fields."""
        types = typing.get_type_hints(cls)
        known = [spec.name for spec in fields(cls) if spec.init]
        for key, value in settings.items():
            if key not in known:
                if not known:
                    raise UsageError(f"{cls.name} has no options; '{key}' is not one")
                raise unknown_name(f"option of {cls.name}", key, known)
            if not _fits(value, types[key]):
                raise UsageError(f"option {key} of {cls.name} must be {_named(types[key])}, not {value!r}")
        # Frozen options are tuples, and lists in YAML.
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


@dataclass(frozen=True)
class Pruner(Method):
    """A method that rates coupled channels.

    Attributes:
        scope: how channels are ranked by default: `global`, `local` or `isomorphic`.
        comparable: whether scores of different groups are on one scale, of what is lost with a channel; those of other
            methods only rank the channels of a group, whatever `scope` does with them by default.
        needs_data: whether `score` looks at the calibration batches.
        needs_target: whether what it does depends on the target, by way of `Calibration.budget`.
    """

    scope: ClassVar[str]
    comparable: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    needs_target: ClassVar[bool] = False

    @property
    def trains_first(self) -> bool:
        """Whether `prepare` trains the network before it is scored, with the options as they are."""
        return False

    @property
    def starts_anew(self) -> bool:
        """Whether the cut network gets fresh weights, so that it is to be trained from scratch."""
        return False

    def prepare(self, saved: SavedModel, training: Training) -> Preparation:
        """Trains a network, which is then grouped, scored and cut in the baseline's place.

        Called only where `trains_first`, once for all prunings that it serves; the result is kept on disk.

        Args:
            saved: a copy of the baseline on the device, trained in place; its structure stays, and it is left in
                evaluation mode.
            training: data, seed, device and budget.
        """
        raise NotImplementedError(f"{self.name} trains nothing")

    @abstractmethod
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        """Scores the channels of the given groups; the model is left as it was.

        Args:
            model: a trained network in evaluation mode.
            groups: the prunable groups.
            calibration: data and seed.

        Returns:
            Group name -> float [channels], larger = keep. A group the method cannot score is left out.
        """

    def pools(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Groups that the method's global ranking keeps apart: group name -> pool; see `Target.pools`."""
        return {}


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Which weights of a network become zero.

    Attributes:
        zeroed: parameter name -> bool, shaped as the parameter, true where it becomes zero.
        record: the same in numbers, as `pruning_info.json` says it.
    """

    zeroed: Mapping[str, Tensor]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Sparsifier(Method):
    """A method that zeroes single weights: no channel goes, and parameters, MACs and latency stay."""

    def aim(self, goal: Goal) -> Goal:
        """A share of the channels is read as the share of the weights to zero; nothing else can be reached."""
        if goal.kind not in ("channels", "sparsity"):
            raise UsageError(
                f"{self.name} zeroes single weights, which leaves parameters, MACs and size as they are; ask for a "
                "sparsity with `global_ratio` or `ratios`"
            )
        return Goal("sparsity", goal.value)

    @abstractmethod
    def choose(self, model: nn.Module, spared: Collection[str], sparsity: float) -> Sparsity:
        """Chooses the weights to zero; the model is left as it was.

        Args:
            model: a trained network.
            spared: names of layers to leave as they are: output layers and what the user protects.
            sparsity: share to zero of all weights the method may touch, in [0, 1).

        Raises:
            BenchError: no weight may be touched, or that many may not go.
        """


def _fits(value: Any, wanted: Any) -> bool:
    """Whether an option's value is of the type its field is annotated with."""
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(item, typing.get_args(wanted)[0]) for item in value)
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)


def _named(wanted: Any) -> str:
    """What a type is called in a message."""
    if typing.get_origin(wanted) is tuple:
        return f"a list of {typing.get_args(wanted)[0].__name__} such as [0,3]"
    return wanted.__name__
