"""Round with compensation: each input's rounding error is made up for by the inputs after it.

Source: Frantar et al., GPTQ (ICLR 2023), section 3: with `H = X X^T` over calibration inputs X,
inputs are rounded one after another, and the error of each is spread over those not yet rounded
by the rows of the Cholesky factor of `H^-1`. X holds spikes here.
"""

from __future__ import annotations

import torch

from primesvt_deploy.lowering.integer.int4_packing import GROUP, MAX_INT4
from primesvt_deploy.quantization.rounding import (
    Grid,
    best_multipliers,
    group_powers,
    round_to_grid,
)

__all__ = ["round_compensated"]

_DAMPING = 0.01
_BLOCK = 4 * GROUP


def round_compensated(weights: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, Grid]:
    """Round weights to a 4-bit grid, with compensation.

    Args:
        weights: `[N, K]`.
        moments: `[K, K]` second moments of the inputs.

    Returns:
        The rounded weights `[N, K]`, and their grid.
    """
    dtype = weights.dtype
    rest = weights.double().clone()
    factor = _inverse_factor(moments.double())
    powers = group_powers(rest)
    importance = moments.diagonal().double()
    rounded, steps = torch.zeros_like(rest), torch.zeros_like(rest)
    for start in range(0, rest.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rest.shape[1])
        errors = torch.zeros_like(rest[:, start:stop])
        for column in range(start, stop):
            if column % GROUP == 0:
                group = slice(column, min(column + GROUP, rest.shape[1]))
                step = powers * best_multipliers(rest[:, group], powers, importance[group])
            value = rest[:, column : column + 1]
            rounded[:, column : column + 1] = round_to_grid(value, Grid(step, MAX_INT4, powers))
            steps[:, column : column + 1] = step
            error = (value - rounded[:, column : column + 1]) / factor[column, column]
            rest[:, column:stop] -= error * factor[column, column:stop]
            errors[:, column - start : column - start + 1] = error
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
    return rounded.to(dtype), Grid(steps.to(dtype), MAX_INT4, powers.to(dtype))


def _inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped second moments."""
    diagonal = moments.diagonal()
    damping = _DAMPING * diagonal.mean().clamp_min(1e-12)
    damped = moments + torch.diag(damping + torch.zeros_like(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
