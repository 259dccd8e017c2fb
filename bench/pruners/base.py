"""What a pruning method is: a score for every coupled channel. All that follows the score is shared.

A method that zeroes single weights instead of removing channels is a `Sparsifier`; the two have their options in
common, and what is done with a network afterwards.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from bench.errors import UsageError, unknown_name
from bench.groups import ChannelGroup
from bench.plan import Scores
from bench.target import Goal


@dataclass(frozen=True)
class Calibration:
    """What a method may look at besides the weights.

    Attributes:
        batches: (images float32 [N, 3, H, W], labels int64 [N, H, W]) from the training split, without
            augmentation; empty for methods that need no data.
        ignore_index: label id left out of the loss.
        seed: seed of everything random in a method.
    """

    batches: Sequence[tuple[Tensor, Tensor]]
    ignore_index: int
    seed: int


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method; a subclass's dataclass fields are its options.

    Attributes:
        name: the registered name.
        paper: where the method was published.
    """

    name: ClassVar[str]
    paper: ClassVar[str]

    def aim(self, goal: Goal) -> Goal:
        """The goal in the method's own terms.

        Raises:
            UsageError: the method reaches no goal of that kind.
        """
        return goal

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
            wanted = types[key]
            fits = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
            if not fits or (isinstance(value, bool) and wanted is not bool):
                raise UsageError(f"option {key} of {cls.name} must be {wanted.__name__}, not {value!r}")
        return cls(**settings)


@dataclass(frozen=True)
class Pruner(Method):
    """A method that rates coupled channels.

    Attributes:
        scope: how channels are ranked by default: `global`, `local` or `isomorphic`.
        needs_data: whether `score` looks at the calibration batches.
    """

    scope: ClassVar[str]
    needs_data: ClassVar[bool] = False

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
                "sparsity with --global-ratio or --ratios"
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
