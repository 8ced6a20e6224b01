"""Rounded weights lie on grids, near the weights they stand for."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.integer.int4_packing import GROUP, pack
from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.quantization.gptq import round_compensated
from primesvt_deploy.quantization.rounding import (
    Grid,
    channel_grid,
    group_grid,
    round_bias,
    round_to_grid,
)

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 3 * GROUP))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=SHAPES, spread=st.sampled_from([1e-4, 0.05, 30.0]), seed=st.integers(0, 9))
def test_eight_bits_lie_on_a_grid_of_bytes(
    shape: tuple[int, int], spread: float, seed: int
) -> None:
    weights = spread * noise(*shape, seed=seed)
    grid = channel_grid(weights)
    rounded = round_to_grid(weights, grid)
    assert grid_of(rounded.numpy()) is not None
    clipped = (rounded - weights).abs() > grid.steps / 2 + 1e-7 * spread
    # What is clipped is clipped because a finer grid is better for the rest.
    assert clipped.float().mean() <= 0.5


def test_the_power_of_two_is_the_best_one() -> None:
    weights = noise(5, 200)
    grid = channel_grid(weights)
    error = (round_to_grid(weights, grid) - weights).square().sum(dim=1)
    for factor in (0.5, 2.0):
        other = Grid(grid.steps * factor, grid.most_steps, grid.powers * factor)
        assert (error <= (round_to_grid(weights, other) - weights).square().sum(dim=1)).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 9))
def test_four_bits_can_be_packed(shape: tuple[int, int], seed: int) -> None:
    weights = noise(*shape, seed=seed)
    for rounded in (
        round_to_grid(weights, group_grid(weights)),
        round_compensated(weights, moments(shape))[0],
    ):
        grid = grid_of(rounded.numpy())
        assert grid is not None
        assert pack(grid.codes.T) is not None


def moments(shape: tuple[int, int]) -> torch.Tensor:
    spikes = (noise(64, shape[1], seed=3) > 0.8).float()
    return spikes.T @ spikes / len(spikes)


def test_silent_weights_stay_silent() -> None:
    weights = torch.zeros(3, 10)
    assert not round_to_grid(weights, channel_grid(weights)).any()
    assert not round_to_grid(weights, group_grid(weights)).any()
    rounded, _ = round_compensated(weights, torch.zeros(10, 10))
    assert not rounded.any()


def test_compensation_leaves_less_error_in_the_currents() -> None:
    """On inputs that go together, as spikes of neighbouring pixels do."""
    weights = noise(16, 2 * GROUP)
    mixed = noise(4096, 8, seed=1) @ noise(8, 2 * GROUP, seed=2)
    spikes = (mixed > 1.0).float()
    rounded, _ = round_compensated(weights, spikes.T @ spikes / len(spikes))
    plain = round_to_grid(weights, group_grid(weights))
    error = (spikes @ (rounded - weights).T).square().mean()
    assert error < 0.5 * (spikes @ (plain - weights).T).square().mean()


def test_biases_are_on_a_finer_grid_of_their_channel() -> None:
    bias, powers = noise(6), torch.exp2(torch.arange(-6.0, 0.0))[:, None]
    rounded = round_bias(bias, powers)
    units = rounded / (powers.flatten() * 2.0**-6)
    assert torch.equal(units, units.round())
    assert ((rounded - bias).abs() <= powers.flatten() * 2.0**-7).all()
