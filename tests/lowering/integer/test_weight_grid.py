"""Grids of 8-bit integers times powers of two are told from the weights alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from primesvt_deploy.lowering.integer.weight_grid import grid_of

CODES = hnp.arrays(np.int8, (3, 2, 3), elements=st.integers(-127, 127))
EXPONENTS = hnp.arrays(np.int64, (3,), elements=st.integers(-20, 4))


@given(codes=CODES, exponents=EXPONENTS)
def test_weights_of_a_grid_are_given_back(codes: np.ndarray, exponents: np.ndarray) -> None:
    weights = np.ldexp(codes.astype(np.float32), exponents[:, None, None])
    grid = grid_of(weights)
    assert grid is not None
    found = grid.codes.astype(np.float32) * grid.scales[:, None, None]
    np.testing.assert_array_equal(found, weights)


@given(codes=CODES, exponents=EXPONENTS, factor=st.integers(32, 63))
def test_a_scaled_channel_keeps_its_integers(
    codes: np.ndarray, exponents: np.ndarray, factor: int
) -> None:
    weights = np.ldexp(codes.astype(np.float32), exponents[:, None, None])
    grid, scaled = grid_of(weights), grid_of(weights * np.float32(factor / 32))
    assert grid is not None and scaled is not None
    np.testing.assert_array_equal(scaled.codes, grid.codes)
    live = np.abs(codes).max(axis=(1, 2)) > 0
    np.testing.assert_array_equal(scaled.scales[live], grid.scales[live] * factor / 32)


def test_weights_of_no_grid_are_refused() -> None:
    noise = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    assert grid_of(noise) is None
    assert grid_of(np.asarray([[1.0, 128.5]], dtype=np.float32)) is None
    assert grid_of(np.asarray([[1.0, np.nan]], dtype=np.float32)) is None


def test_one_channel_off_the_grid_spoils_it() -> None:
    weights = np.asarray([[1.0, 2.0], [1.0, 1.0 / 3.0]], dtype=np.float32)
    assert grid_of(weights[:1]) is not None
    assert grid_of(weights) is None


def test_sums_beyond_24_bits_are_not_called_exact() -> None:
    grid = grid_of(np.full((1, 1000), 127.0, dtype=np.float32))
    assert grid is not None
    bias = np.asarray([2.0**-3], dtype=np.float32)
    assert grid.sums_are_exact(bias, 1)
    assert not grid.sums_are_exact(bias, 255)  # 127000 * 255 eighths
    assert not grid.sums_are_exact(np.asarray([2.0**-9], dtype=np.float32), 1)
    assert grid.sums_are_exact(np.zeros(1, dtype=np.float32), 100)
