"""Read weights as integers of 8 or 16 bits times a power of two, one power a channel.

A channel of 8 bits may have a small whole factor besides, which its integers have in common:
scaling a channel (`quantization.timesteps`) changes its factor and its power, and no integer. On
such a grid products with spike counts are whole multiples of the channel's power of two, and
float32 holds their sums exactly while they stay below 2^24 of them. So any order of adding, any
machine, and torch with the weights as floats give the same currents to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FLOAT_BITS", "MAX_INT16", "GridWeights", "grid_of"]

FLOAT_BITS = 24
"""Bits of a float32's significand."""
MAX_INT16 = 2**15 - 1
"""Largest absolute value of 16 bits here."""
_MAX_INT8 = 127
_MOST_FACTOR = 2**13 - 1
"""Largest factor of a channel: one of 7 bits, which any weights of 8 bits may have in common, times
one of 6 bits, which scales them."""


@dataclass(frozen=True)
class GridWeights:
    """`weights[n] = codes[n] * factors[n] * 2 ** exponents[n]`.

    Args:
        codes: int8, -127..127, or int16, of the weights' shape.
        exponents: int, one for each output channel (the first axis).
        factors: int, odd, one for each output channel; all 1 with int16.
    """

    codes: npt.NDArray[np.signedinteger[Any]]
    exponents: npt.NDArray[np.int64]
    factors: npt.NDArray[np.int64]

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """`factors * 2 ** exponents`, float32: exact."""
        return np.ldexp(self.factors.astype(np.float32), self.exponents).astype(np.float32)

    def sums_are_exact(
        self,
        biases: npt.NDArray[np.floating[Any]],
        largest_input: int | npt.NDArray[np.integer[Any]],
    ) -> bool:
        """Whether current plus bias is exact in float32, whatever the order of the sum.

        Args:
            biases: one for each output channel.
            largest_input: bound of the inputs' absolute values, which are whole; or one for each
                input channel (the second axis).
        """
        bounds = np.reshape(largest_input, (1, -1, *[1] * (self.codes.ndim - 2)))
        sums = (np.abs(self.codes.astype(np.int64)) * bounds).reshape(len(self.codes), -1).sum(
            axis=1
        ) * self.factors
        step = np.minimum(_lowest_bit(biases.astype(np.float64)[:, None]), self.exponents)
        most = sums * np.ldexp(1.0, self.exponents) + np.abs(biases)
        return bool((most < np.ldexp(1.0, step + FLOAT_BITS)).all())


def grid_of(weights: npt.NDArray[np.float32], bits: int = 8) -> GridWeights | None:
    """Find the grid that weights lie on; None if they lie on none.

    Args:
        weights: output channels first.
        bits: of the grid, 8 or 16.
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    if not np.isfinite(flat).all():
        return None
    exponents = _lowest_bit(flat)
    codes = np.ldexp(flat, -exponents[:, None])
    factors = np.ones(len(flat), dtype=np.int64)
    if bits == 8:
        if np.abs(codes).max(initial=0.0) > _MAX_INT8 * _MOST_FACTOR:
            return None
        factors = np.gcd.reduce(codes.astype(np.int64), axis=1).clip(min=1)
        codes = codes / factors[:, None]
        if factors.max(initial=1) > _MOST_FACTOR:
            return None
    if np.abs(codes).max(initial=0.0) > (_MAX_INT8 if bits == 8 else MAX_INT16):
        return None
    whole = codes.reshape(weights.shape)
    return GridWeights(whole.astype(np.int8 if bits == 8 else np.int16), exponents, factors)


def _lowest_bit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Exponent of the largest power of two that divides every value of a row; 0 for zeros."""
    significands, exponents = np.frexp(values)
    whole = np.ldexp(significands, 53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1].astype(np.int64) - 1
    bits = np.where(whole == 0, np.iinfo(np.int64).max, exponents - 53 + lowest)
    least = bits.min(axis=1)
    return np.where(least == np.iinfo(np.int64).max, 0, least)
