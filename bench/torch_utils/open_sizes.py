"""Conditions on the sizes of tensors, where a network is exported for sizes that are left open."""

from __future__ import annotations

import torch


def holds_always(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes holds, for certain where they are left open.

    Asked as `if condition`, an export would take it as a promise that it holds for every size; asked so, what is not
    certain is false, and the branch for it must be right for all sizes.

    >>> images = torch.zeros(1, 3, 64, 96)
    >>> holds_always(images.shape[-1] == 96), holds_always(images.shape[-1] == 64)
    (True, False)
    """
    if not isinstance(condition, torch.SymBool):
        return bool(condition)
    # Not before there is something to ask: it brings sympy.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)
