"""What a pruning method is: a score for every coupled channel. All that follows the score is shared."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from bench.errors import UsageError, unknown_name
from bench.groups import ChannelGroup
from bench.plan import Scores


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
class Pruner(ABC):
    """Base of every method; a subclass's dataclass fields are its options.

    Attributes:
        name: the registered name.
        paper: where the method was published.
        scope: how channels are ranked by default: `global`, `local` or `isomorphic`.
        needs_data: whether `score` looks at the calibration batches.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
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

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Pruner:
        """Builds the method from option names and values, checked against its fields."""
        types = typing.get_type_hints(cls)
        known = [spec.name for spec in fields(cls)]
        for key, value in settings.items():
            if key not in known:
                if not known:
                    raise UsageError(f"{cls.name} has no options; '{key}' is not one")
                raise unknown_name(f"option of {cls.name}", key, known)
            if not _fits(value, types[key]):
                raise UsageError(f"option {key} of {cls.name} must be {_named(types[key])}, not {value!r}")
        # Frozen options are tuples, and lists in YAML.
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


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
