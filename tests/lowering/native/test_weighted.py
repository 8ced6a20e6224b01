"""Integer weight rows in the engine: the sums of a convolution in whole numbers, at any width."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from primesvt_deploy.artifact.native_file import native_bytes
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.integer.int4_packing import GROUP
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron
from primesvt_deploy.lowering.native.lower import lower_to_native
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import SparseOp, WeightFormat
from primesvt_deploy.lowering.trace import trace


@dataclass(frozen=True)
class Config:
    """Enough of a network's configuration to trace one."""

    timesteps: int
    channels: int
    size: int
    frames: bool = False

    def example(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, self.channels, self.size, self.size)


class Layer(nn.Module):
    """Spikes of an image, a convolution with integer weights, neurons, and their mean.

    The neurons' threshold is such that a third of the currents of the first timestep exceed it.
    """

    def __init__(self, conv: nn.Conv2d, steps: int, levels: int = 1) -> None:
        super().__init__()
        fires = ChargeFireReset(
            timesteps=steps, static_input=True, decay=0.5, gain=1.0, offset=0.0, v_threshold=1.0,
            v_reset=None if levels > 1 else 0.0, levels=levels,
        )  # fmt: skip
        self.encode = UnrolledNeuron(fires)
        self.conv = conv
        self.steps = steps
        config = Config(steps, conv.in_channels, 9)
        with torch.no_grad():
            currents = conv(self.encode(torch.from_numpy(images(config)[:1]))[:1])
        threshold = float(currents.abs().quantile(0.67).mul(2**10).ceil()) * 2.0**-10
        self.fire = UnrolledNeuron(
            ChargeFireReset(
                timesteps=steps,
                static_input=False,
                decay=0.5,
                gain=1.0,
                offset=0.0,
                v_threshold=threshold,
                v_reset=0.0,
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.fire(self.conv(self.encode(x)))
        return spikes.mean((2, 3)).unflatten(0, (self.steps, -1)).mean(0)


def conv_of(
    inputs: int, outputs: int, kernel: int, *, largest: int, seed: int = 0, **geometry: int
) -> nn.Conv2d:
    """A convolution of whole weights up to `largest` times 2^-6, and a fine bias."""
    conv = nn.Conv2d(inputs, outputs, kernel, **geometry)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-largest, largest + 1, conv.weight.shape, generator=generator)
    codes.view(outputs, -1)[:, 0] = 1  # odd, so that the grid is this one
    with torch.no_grad():
        conv.weight.copy_(codes * 2.0**-6)
        conv.bias.copy_(torch.randint(-200, 200, (outputs,), generator=generator) * 2.0**-12)
    return conv


def programs(layer: Layer, config: Config, path: Path, **options: bool) -> NativeProgram:
    graph = trace(layer.eval(), config, 1)  # type: ignore[arg-type]
    program = lower_to_native(graph, **options)
    path.write_bytes(native_bytes(program))
    return program


def images(config: Config, count: int = 2, seed: int = 1) -> npt.NDArray[np.float32]:
    shape = (count, config.channels, config.size, config.size)
    return (2.0 * np.random.default_rng(seed).random(shape)).astype(np.float32)


@torch.no_grad()
def check(layer: Layer, config: Config, path: Path, **options: bool) -> SparseOp:
    """The engine gives torch's numbers; the one sparse operator of the program."""
    program = programs(layer, config, path, **options)
    batch = images(config)
    expected = np.concatenate([layer(torch.from_numpy(x[None])).numpy() for x in batch])
    assert 0.005 < expected.mean() < 0.98
    np.testing.assert_array_equal(NativeModel(path).logits(batch), expected)
    (operator,) = (op for op in program.operators if isinstance(op, SparseOp))
    return operator


@pytest.mark.parametrize("outputs", [1, 5, 31, 32, 33, 64, 97, 130, 193])
def test_any_number_of_outputs(outputs: int, tmp_path: Path) -> None:
    config = Config(timesteps=4, channels=7, size=5)
    layer = Layer(conv_of(7, outputs, 3, largest=40, padding=1), 4)
    assert check(layer, config, tmp_path / "m.svit").block_rows == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 9, 16, 20])
def test_any_number_of_timesteps(steps: int, tmp_path: Path) -> None:
    config = Config(timesteps=steps, channels=20, size=4)
    check(Layer(conv_of(20, 9, 1, largest=60), steps), config, tmp_path / "m.svit")


@pytest.mark.parametrize(("steps", "levels"), [(1, 4), (1, 8), (2, 4), (4, 3), (10, 2)])
def test_counts(steps: int, levels: int, tmp_path: Path) -> None:
    config = Config(timesteps=steps, channels=12, size=4)
    layer = Layer(conv_of(12, 9, 3, largest=30, padding=1), steps, levels)
    check(layer, config, tmp_path / "m.svit")


@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": 1},
        {"padding": 2, "dilation": 2},
        {"stride": 2},
        {"stride": 2, "padding": 1},
        {"stride": 3, "padding": 0},
        {"stride": 4, "padding": 2},
    ],
    ids=str,
)
def test_geometry(geometry: dict[str, int], tmp_path: Path) -> None:
    config = Config(timesteps=4, channels=9, size=9)
    layer = Layer(conv_of(9, 10, 3, largest=50, **geometry), 4)
    check(layer, config, tmp_path / "m.svit")


@pytest.mark.parametrize("inputs", [350, 700])
@pytest.mark.parametrize("pack", [False, True], ids=["int8", "int4"])
def test_sums_beyond_16_bits_are_split(inputs: int, pack: bool, tmp_path: Path) -> None:
    config = Config(timesteps=4, channels=inputs, size=2)
    conv = conv_of(inputs, 37, 1, largest=127)
    with torch.no_grad():
        weights = torch.full_like(conv.weight, 126.0)
        weights[1::2] = -126.0
        weights[0] = torch.arange(inputs)[:, None, None] % 3 * 42.0
        weights[:, :3] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        if pack:  # steps of 17 and of 16, up to seven of them
            weights[:] = 119.0
            weights[:, 2 * GROUP :] = 112.0
            weights[1::2] *= -1.0
            weights[:, :GROUP] = 17.0 * torch.arange(GROUP).remainder(8)[:, None, None]
        conv.weight.copy_(weights * 2.0**-9)
    layer = Layer(conv, 4)
    operator = check(layer, config, tmp_path / "m.svit", pack=pack)
    assert operator.block_rows > 0


@pytest.mark.parametrize("outputs", [1, 2, 15, 33, 64, 77, 129])
@pytest.mark.parametrize("inputs", [10, 64, 150])
def test_nibbles(outputs: int, inputs: int, tmp_path: Path) -> None:
    config = Config(timesteps=4, channels=inputs, size=3)
    conv = conv_of(inputs, outputs, 1, largest=7)
    with torch.no_grad():  # a multiplier of its own for each group of rows
        for start in range(0, inputs, GROUP):
            conv.weight[:, start : start + GROUP] *= start // GROUP + 1
    operator = check(Layer(conv, 4), config, tmp_path / "m.svit", pack=True)
    assert operator.weights is WeightFormat.INT4
    assert operator.rows.content.size == inputs * ((outputs + 1) // 2)
