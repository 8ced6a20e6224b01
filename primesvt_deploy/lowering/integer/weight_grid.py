"""Read weights as 8-bit integers times a power of two, one power a channel.

On such a grid products with spike counts are whole multiples of the channel's power of two, and
float32 holds their sums exactly while they stay below 2^24 of them. So any order of adding, any
machine, and torch with the weights as floats give the same currents to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FLOAT_BITS", "GridWeights", "grid_of"]

FLOAT_BITS = 24
"""Bits of a float32's significand."""
_MOST = 127


@dataclass(frozen=True)
class GridWeights:
    """`weights[n] = codes[n] * 2 ** exponents[n]`.

    Args:
        codes: int8, of the weights' shape, -127..127.
        exponents: int, one for each output channel (the first axis).
    """

    codes: npt.NDArray[np.int8]
    exponents: npt.NDArray[np.int64]

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """`2 ** exponents`, float32."""
        return np.ldexp(np.float32(1), self.exponents).astype(np.float32)

    def sums_are_exact(self, biases: npt.NDArray[np.floating[Any]], largest_input: int) -> bool:
        """Whether current plus bias is exact in float32, whatever the order of the sum.

        Args:
            biases: one for each output channel.
            largest_input: bound of the inputs' absolute values, which are whole.
        """
        sums = np.abs(self.codes.astype(np.int64)).reshape(len(self.codes), -1).sum(axis=1)
        step = np.minimum(_lowest_bit(biases.astype(np.float64)[:, None]), self.exponents)
        most = sums * largest_input * np.ldexp(1.0, self.exponents) + np.abs(biases)
        return bool((most < np.ldexp(1.0, step + FLOAT_BITS)).all())


def grid_of(weights: npt.NDArray[np.float32]) -> GridWeights | None:
    """Find the grid that `weights` (output channels first) lie on; None if they lie on none."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    if not np.isfinite(flat).all():
        return None
    exponents = _lowest_bit(flat)
    codes = np.ldexp(flat, -exponents[:, None])
    if np.abs(codes).max(initial=0.0) > _MOST:
        return None
    return GridWeights(codes.astype(np.int8).reshape(weights.shape), exponents)


def _lowest_bit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Exponent of the largest power of two that divides every value of a row; 0 for zeros."""
    significands, exponents = np.frexp(values)
    whole = np.ldexp(significands, 53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1].astype(np.int64) - 1
    bits = np.where(whole == 0, np.iinfo(np.int64).max, exponents - 53 + lowest)
    least = bits.min(axis=1)
    return np.where(least == np.iinfo(np.int64).max, 0, least)
