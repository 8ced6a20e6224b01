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

__all__ = [
    "Grid",
    "best_multipliers",
    "channel_grid",
    "group_grid",
    "group_powers",
    "powers_above",
    "round_bias",
    "round_to_grid",
]

_MAX_INT8 = 127
_MULTIPLIERS = _MAX_INT8 // MAX_INT4
_BIAS_BITS = 6
"""Biases are multiples of a channel's power of two by 2^-6: finer than its weights, and coarse
enough that sums stay exact in float32."""


@dataclass(frozen=True)
class Grid:
    """Grid of a weight matrix: the steps of its values, and how many steps they may be from 0.

    Args:
        steps: `[N, K]` or what broadcasts to it: the distance of neighbouring values.
        most_steps: largest absolute number of steps.
        powers: `[N, 1]`: the power of two of each channel, which divides its steps.
    """

    steps: torch.Tensor
    most_steps: int
    powers: torch.Tensor


def round_to_grid(weights: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Weights `[N, K]` rounded to the nearest values of their grid."""
    counts = (weights / grid.steps).round().clamp(-grid.most_steps, grid.most_steps)
    return counts * grid.steps


def channel_grid(weights: torch.Tensor) -> Grid:
    """Grid of 8 bits: for each channel the power of two that leaves the least squared error.

    Args:
        weights: `[N, K]`.
    """
    largest = weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    ceiling = powers_above(largest / _MAX_INT8)
    options = [Grid(ceiling * 2.0**-k, _MAX_INT8, ceiling * 2.0**-k) for k in range(4)]
    errors = torch.stack([_errors(weights, option, None) for option in options])
    powers = ceiling * _powers_of_two(-errors.argmin(dim=0).to(weights.dtype))[:, None]
    return Grid(powers, _MAX_INT8, powers)


def group_grid(weights: torch.Tensor) -> Grid:
    """Grid of 4 bits: for each `GROUP` inputs of a channel the multiplier of least squared error.

    Args:
        weights: `[N, K]`.
    """
    powers = group_powers(weights)
    parts = weights.split(GROUP, dim=1)
    steps = torch.cat(
        [best_multipliers(part, powers, None).expand(-1, part.shape[1]) for part in parts], dim=1
    )
    return Grid(steps * powers, MAX_INT4, powers)


def group_powers(weights: torch.Tensor) -> torch.Tensor:
    """Powers of two `[N, 1]` of weights `[N, K]`, one a channel, of which multipliers are taken."""
    largest = weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    return powers_above(largest / (MAX_INT4 * _MULTIPLIERS))


def powers_above(values: torch.Tensor) -> torch.Tensor:
    """The least power of two that is not below each value, which is positive."""
    return _powers_of_two(torch.ceil(torch.log2(values.cpu()))).to(values.device)


def best_multipliers(
    weights: torch.Tensor, powers: torch.Tensor, importance: torch.Tensor | None
) -> torch.Tensor:
    """Whole multipliers `[N, 1]` of least squared error, for one group of inputs.

    Args:
        weights: `[N, up to GROUP]`.
        powers: `[N, 1]`.
        importance: weights of the errors, such as the mean square of each input; None: equal.
    """
    options = range(1, _MULTIPLIERS + 1)
    errors = torch.stack(
        [_errors(weights, Grid(powers * m, MAX_INT4, powers), importance) for m in options]
    )
    return (errors.argmin(dim=0) + 1).to(weights.dtype)[:, None]


def round_bias(bias: torch.Tensor, powers: torch.Tensor, *, bits: int = _BIAS_BITS) -> torch.Tensor:
    """A bias `[N]` rounded to the grid of its channels, `[N, 1]` powers of two.

    Args:
        bias: `[N]`.
        powers: `[N, 1]`.
        bits: by which the bias is finer than the weights.
    """
    unit = powers.flatten() * 2.0**-bits
    return (bias / unit).round() * unit


def _powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """Powers of two, exact; that of a GPU need not be, and off a grid nothing is."""
    return torch.exp2(exponents.cpu()).to(exponents.device)


def _errors(weights: torch.Tensor, grid: Grid, importance: torch.Tensor | None) -> torch.Tensor:
    squares = (round_to_grid(weights, grid) - weights).square()
    return (squares if importance is None else squares * importance).sum(dim=1)
