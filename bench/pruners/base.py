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

    def pools(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Groups that the method's global ranking keeps apart: group name -> pool; see `Target.pools`."""
        return {}

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
            wanted = types[key]
            fits = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
            if not fits or (isinstance(value, bool) and wanted is not bool):
                raise UsageError(f"option {key} of {cls.name} must be {wanted.__name__}, not {value!r}")
        return cls(**settings)
