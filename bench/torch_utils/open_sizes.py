"""What depends on the sizes of tensors, written so that a network can be exported for sizes that are left open."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


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


def means_of_parts(features: Tensor, parts: int) -> Tensor:
    """`adaptive_avg_pool2d`, and for sizes that are left open the same in operators that every exporter has.

    Args:
        features: [N, C, H, W].
        parts: along each side.

    Returns:
        [N, C, parts, parts].
    """
    height, width = features.shape[-2:]
    if isinstance(height, int) and isinstance(width, int):
        return adaptive_avg_pool2d(features, parts)
    rows, columns = (_shares(side, parts, features) for side in (height, width))
    return rows @ features @ columns.transpose(0, 1)


def _shares(side: int | torch.SymInt, parts: int, like: Tensor) -> Tensor:
    """How much each place along a side, from 0, adds to the mean of each part: [parts, side]."""
    part = torch.arange(parts, device=like.device)[:, None]
    place = torch.arange(side, device=like.device)[None]
    # Of part p are the places from floor(p * side / parts) to, without it, ceil((p + 1) * side / parts).
    is_in = (place >= part * side // parts) & (place < ((part + 1) * side + parts - 1) // parts)
    shares = is_in.to(like.dtype)
    return shares / shares.sum(dim=1, keepdim=True)
