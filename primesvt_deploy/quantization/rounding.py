"""Round weights to grids of integers times a power of two.

Weight matrices are `[N, K]`: output channels, and the inputs of one product (kernel pixel by
kernel pixel, then channel, as the artifact gathers them). A grid has one power of two an output
channel; with 4 bits every `GROUP` inputs of a channel share a whole multiplier as well, so that
`weight = 2^e * m * q` with `|q| <= 7` still is one 8-bit integer times that power.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from primesvt_deploy.lowering.integer.int4_packing import GROUP, MAX_INT4

__all__ = ["Grid", "channel_grid", "group_grid", "nearest", "rounded_bias"]

_CODES = 127
_MULTIPLIERS = _CODES // MAX_INT4
_BIAS_BITS = 6
"""Biases are multiples of a channel's power of two by 2^-6: finer than its weights, and coarse
enough that sums stay exact in float32."""


@dataclass(frozen=True)
class Grid:
    """Steps of a weight matrix, and the largest count of them.

    Args:
        steps: `[N, K]` or what broadcasts to it: the distance of neighbouring values.
        most: largest absolute count of steps.
        powers: `[N, 1]`: the power of two of each channel, which divides its steps.
    """

    steps: torch.Tensor
    most: int
    powers: torch.Tensor


def nearest(weights: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Weights `[N, K]` rounded to the nearest value of their grid."""
    return (weights / grid.steps).round().clamp(-grid.most, grid.most) * grid.steps


def channel_grid(weights: torch.Tensor, importance: torch.Tensor | None = None) -> Grid:
    """8 bits: the power of two for each channel that leaves the least squared error.

    Args:
        weights: `[N, K]`.
        importance: `[K]` weights of the errors, such as the mean square of each input.
    """
    largest = weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    ceiling = torch.exp2(torch.ceil(torch.log2(largest / _CODES)))
    options = [Grid(ceiling * 2.0**-k, _CODES, ceiling * 2.0**-k) for k in range(4)]
    errors = torch.stack([_errors(weights, option, importance) for option in options])
    powers = ceiling * torch.exp2(-errors.argmin(dim=0).to(weights.dtype))[:, None]
    return Grid(powers, _CODES, powers)


def group_grid(weights: torch.Tensor) -> Grid:
    """4 bits: for every `GROUP` inputs of a channel the multiplier of least squared error."""
    powers = group_powers(weights)
    parts = weights.split(GROUP, dim=1)
    steps = torch.cat(
        [multipliers(part, powers, None).expand(-1, part.shape[1]) for part in parts], dim=1
    )
    return Grid(steps * powers, MAX_INT4, powers)


def group_powers(weights: torch.Tensor) -> torch.Tensor:
    """`[N, 1]`: the power of two of each channel, of which multipliers are taken."""
    largest = weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    return torch.exp2(torch.ceil(torch.log2(largest / (MAX_INT4 * _MULTIPLIERS))))


def multipliers(
    weights: torch.Tensor, powers: torch.Tensor, importance: torch.Tensor | None
) -> torch.Tensor:
    """`[N, 1]`: the best whole multiplier for one group of inputs `[N, up to GROUP]`."""
    options = range(1, _MULTIPLIERS + 1)
    errors = torch.stack(
        [_errors(weights, Grid(powers * m, MAX_INT4, powers), importance) for m in options]
    )
    return (errors.argmin(dim=0) + 1).to(weights.dtype)[:, None]


def rounded_bias(bias: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
    """A bias `[N]` on the grid of its channels, `[N, 1]` powers of two."""
    unit = powers.flatten() * 2.0**-_BIAS_BITS
    return (bias / unit).round() * unit


def _errors(weights: torch.Tensor, grid: Grid, importance: torch.Tensor | None) -> torch.Tensor:
    squares = (nearest(weights, grid) - weights).square()
    return (squares if importance is None else squares * importance).sum(dim=1)
