"""What a pruning is to reach: how much, of what, and within which limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UsageError, unknown_name

KINDS = ("channels", "macs", "params", "size", "latency", "milliseconds", "sparsity")
"""What can be asked for: `size` is that of the saved tensors, `latency` and `milliseconds` are a latency, relative and
absolute, and `sparsity` has methods that remove no channels."""

_REMOVED = (lambda value: 0 <= value < 1, "a share to remove, in [0, 1)")
_KEPT = (lambda value: 0 < value <= 1, "a share to keep, in (0, 1]")
_AMOUNT = (lambda value: 0 < value < math.inf, "above 0")
_RANGES = {
    **dict.fromkeys(("channels", "sparsity"), _REMOVED),
    **dict.fromkeys(("macs", "params", "latency"), _KEPT),
    **dict.fromkeys(("size", "milliseconds"), _AMOUNT),
}


@dataclass(frozen=True)
class Goal:
    """How much of what.

    Raises:
        UsageError: a kind there is not, or a value that it cannot have.

    Attributes:
        kind: one of `KINDS`.
        value: for channels the share of the prunable ones to remove, in [0, 1); for MACs, parameters and latency
            the share to keep, in (0, 1]; for the size the most bytes the saved tensors may have; for milliseconds
            the time an image takes; for sparsity the share of the weights a method may touch that become zero,
            in [0, 1).
        within: how far off the result may be, for MACs and parameters, as a share of the whole network; None takes
            the closest there is, however far.
    """

    kind: str
    value: float
    within: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("target", self.kind, KINDS)
        in_range, wanted = _RANGES[self.kind]
        if not in_range(self.value):
            raise UsageError(f"a target of {self.value:g} in {self.kind} cannot be; it is {wanted}")

    def __str__(self) -> str:
        if self.kind == "channels":
            return f"{self.value:g}"
        if self.kind == "milliseconds":
            return f"latency {self.value:g}ms"
        return f"{self.kind} {megabytes(self.value) if self.kind == 'size' else f'{self.value:g}'}"

    @property
    def tag(self) -> str:
        """A piece of a folder's name, different for different goals."""
        if self.kind == "milliseconds":
            return f"latency{self.value!r}ms"
        return f"{'r' if self.kind == 'channels' else self.kind}{self.value!r}"

    @property
    def is_timed(self) -> bool:
        """Whether only a measurement on the device can tell if it is reached."""
        return self.kind in ("latency", "milliseconds")


@dataclass(frozen=True)
class Target:
    """A goal, how channels are ranked on the way there, and what each group keeps whatever its ranks.

    Attributes:
        goal: what is to be reached.
        scope: which channels are ranked with which: `global` all, `local` those of a group, `isomorphic` those of
            all groups of the same structure. Every such class loses the same share of its channels.
        min_keep: smallest share of a group's channels that stays; at least one channel always does.
        max_ratio: largest share of a group's channels that goes.
        round_to: the channels a group keeps are a multiple of this, unless it keeps all or never had as many.
        ratio_of: layer-name pattern (`fnmatch`) -> the share that the groups with such a producer lose, whatever
            the goal; the first pattern that fits counts. A goal in channels is then a share of the other groups'.
        pools: group name -> its pool, where `global` ranks only the channels of the same pool with each other; the
            groups not named are a pool of their own. The other scopes do not look at pools.
    """

    goal: Goal
    scope: str = "global"
    min_keep: float = 0.02
    max_ratio: float = 1.0
    round_to: int = 1
    ratio_of: Mapping[str, float] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Plain data for a JSON record, the goal's fields among the others."""
        return {
            "kind": self.goal.kind,
            "value": self.goal.value,
            "scope": self.scope,
            "min_keep": self.min_keep,
            "max_ratio": self.max_ratio,
            "round_to": self.round_to,
            "ratio_of": dict(self.ratio_of),
            "within": self.goal.within,
            "pools": dict(self.pools),
        }


def megabytes(count: float) -> str:
    """Bytes for people: `10000000` -> `'10MB'`."""
    return f"{count / 1e6:.6g}MB"
