"""Ridge regression of what a layer should give on what it reads, from sums over samples; pure functions on tensors.

With x what a layer reads and y what it should give, both less their means, and W0 the weights it has:

    W = argmin ||y - W x||^2 + lambda ||W - W0||^2 = (Y X^T + lambda W0) (X X^T + lambda I)^-1
    b = mean(y) - W mean(x)

lambda is a share of the mean diagonal of X X^T. The sums are all that is kept of the samples, in double precision, so
that any number of samples takes the same memory, and parts of them can be added up. Several systems of one shape, such
as the groups of a convolution, are solved at once: every tensor has them on axis 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import BenchError

# An estimate of the condition number from which on a system is damped more.
_ILL_CONDITIONED = 1e13


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over n samples of inputs x [g, n, K] and targets y [g, n, O], float64; each may count by a weight.

    Attributes:
        count: n, or the sum of the weights.
        x: [g, K], sum of the inputs.
        y: [g, O], sum of the targets.
        xx: [g, K, K], sum of x x^T.
        yx: [g, O, K], sum of y x^T.
        yy: [g, O], sum of the squared targets.
    """

    count: float
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor
    yy: Tensor

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of samples together."""
        mine, others = vars(self).values(), vars(other).values()
        return Moments(*(a + b for a, b in zip(mine, others, strict=True)))

    def centred(self) -> Moments:
        """The moments of the same samples less their means; the sums are 0 then."""
        n = self.count or 1
        return Moments(
            self.count,
            torch.zeros_like(self.x),
            torch.zeros_like(self.y),
            self.xx - self.x[:, :, None] * self.x[:, None, :] / n,
            self.yx - self.y[:, :, None] * self.x[:, None, :] / n,
            self.yy - self.y.square() / n,
        )


def moments(inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Moments:
    """Sums over samples, in double precision.

    Args:
        inputs: [g, n, K].
        targets: [g, n, O].
        weights: [n], how much each sample counts, not negative; 1 by default.
    """
    inputs, targets = inputs.double(), targets.double()
    counted, count, wanted = inputs, float(inputs.shape[1]), targets
    if weights is not None:
        weights = weights.double()[None, :, None]
        counted, count, wanted = inputs * weights, float(weights.sum()), targets * weights
    xx, yx = counted.mT @ inputs, targets.mT @ counted
    return Moments(count, counted.sum(1), wanted.sum(1), xx, yx, (wanted * targets).sum(1))


def ridge(found: Moments, before: Tensor, share: float) -> tuple[Tensor, float]:
    """The weights W of the module's headline, for moments as they are: centre them first where there is a constant.

    Args:
        found: moments of the samples.
        before: [g, O, K], the weights W0.
        share: lambda as a share of the mean diagonal of X X^T; raised tenfold while a system is ill-conditioned.

    Returns:
        [g, O, K] in float64, and the share it took.

    Raises:
        BenchError: the samples are not finite.

    >>> x = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])
    >>> ridge(moments(x, x @ torch.tensor([[3.0], [4.0]])), torch.zeros(1, 1, 2), 1e-12)[0]
    tensor([[[3.0000, 4.0000]]], dtype=torch.float64)
    """
    if not (found.xx.isfinite().all() and found.yx.isfinite().all()):
        raise BenchError(
            "a layer to repair reads or gives what is not finite; look for nan in the checkpoint or the images"
        )
    diagonal = found.xx.diagonal(dim1=-2, dim2=-1)
    # An input that never varies has a system of zeros: 1 in its diagonal gives back the weights before.
    mean = diagonal.mean(-1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    before = before.double()
    identity = torch.eye(before.shape[-1], dtype=before.dtype, device=before.device)
    while True:
        damping = (share * mean)[:, None, None]
        factor, failed = torch.linalg.cholesky_ex(found.xx + damping * identity)
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        condition = (pivots.amax(-1) / pivots.amin(-1)).square().amax()
        if not failed.any() and condition < _ILL_CONDITIONED:
            break
        share = 10 * share if share else 1e-12
    right = found.yx + damping * before
    return torch.cholesky_solve(right.mT, factor).mT.contiguous(), share


def constant(found: Moments, weights: Tensor) -> Tensor:
    """The constant beside some weights: mean(y) - W mean(x), [g, O]."""
    return (found.y - (weights.double() @ found.x[:, :, None])[..., 0]) / (found.count or 1)


def squared_error(found: Moments, weights: Tensor, added: Tensor | None = None) -> Tensor:
    """Sum over the samples of (y - W x - b)^2.

    Args:
        found: moments of the samples, as they are.
        weights: [g, O, K].
        added: [g, O], the constant b; none by default.

    Returns:
        [g, O] in float64, not negative.
    """
    weights = weights.double()
    error = found.yy - 2 * (weights * found.yx).sum(-1) + ((weights @ found.xx) * weights).sum(-1)
    if added is not None:
        left = found.y - (weights @ found.x[:, :, None])[..., 0]
        error = error - 2 * added * left + found.count * added.square()
    return error.clamp(min=0)
