"""Sums of counts that 16 bits cannot hold: plane by plane, and block by block of weight rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering.native.test_weighted import Config, conv_of, images
from torch import nn

from primesvt_deploy.artifact.native_file import native_bytes
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron
from primesvt_deploy.lowering.native.lower import lower_to_native
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import SparseOp
from primesvt_deploy.lowering.trace import trace

pytestmark = pytest.mark.slow  # the engine is compiled
STEPS = 4
PLANES = 3
"""Of counts up to five."""


def neuron(threshold: float, *, static: bool) -> UnrolledNeuron:
    return UnrolledNeuron(
        ChargeFireReset(
            timesteps=STEPS, static_input=static, decay=0.5, gain=1.0, offset=0.0,
            v_threshold=threshold, v_reset=0.0,
        )
    )  # fmt: skip


class Stream(nn.Module):
    """A residual stream of five tensors of spikes, a convolution with integer weights, neurons."""

    def __init__(self, conv: nn.Conv2d, config: Config) -> None:
        super().__init__()
        self.sources = nn.ModuleList(neuron(0.5 + 0.3 * n, static=True) for n in range(5))
        self.conv = conv
        with torch.no_grad():
            currents = conv(self.counts(torch.from_numpy(images(config)[:1])))
        self.fire = neuron(float(currents.abs().quantile(0.6).ceil()), static=False)

    def counts(self, x: torch.Tensor) -> torch.Tensor:
        total = self.sources[0](x)
        for source in self.sources[1:]:
            total = total + source(x)
        return total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.fire(self.conv(self.counts(x)))
        return spikes.mean((2, 3)).unflatten(0, (STEPS, -1)).mean(0)


def lowered(conv: nn.Conv2d, *, pack: bool) -> tuple[NativeProgram, np.ndarray, np.ndarray]:
    """A program, samples, and torch's results."""
    config = Config(timesteps=STEPS, channels=conv.in_channels, size=4)
    layer = Stream(conv, config).eval()
    batch = images(config)
    with torch.no_grad():
        expected = np.concatenate([layer(torch.from_numpy(x[None])).numpy() for x in batch])
    assert 0.02 < expected.mean() < 0.98
    graph = trace(layer, config, 1)  # type: ignore[arg-type]
    return lower_to_native(graph, pack=pack), batch, expected


def operator_of(program: NativeProgram) -> SparseOp:
    (operator,) = (op for op in program.operators if isinstance(op, SparseOp))
    return operator


def with_tile(program: NativeProgram, tile: int) -> NativeProgram:
    """The program with another number of positions whose lists are kept."""
    return replace(
        program,
        operators=tuple(
            replace(op, tile=tile, listed=0 if tile else 20) if isinstance(op, SparseOp) else op
            for op in program.operators
        ),
    )


@pytest.mark.parametrize("tile", [0, 1, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs", "largest", "kernel", "together"),
    [
        (60, 200, 20, 1, PLANES),
        (220, 40, 127, 1, 2),
        (600, 40, 100, 1, 1),
        (130, 33, 120, 3, 1),
    ],
    ids=["16 bits", "two planes", "one plane", "overlapping windows"],
)
@pytest.mark.parametrize("pack", [False, True], ids=["int8", "int4"])
def test_counts_of_a_stream(
    inputs: int,
    outputs: int,
    largest: int,
    kernel: int,
    together: int,
    pack: bool,
    tile: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv = conv_of(inputs, outputs, kernel, largest=7 if pack else largest, padding=kernel // 2)
    if pack:
        with torch.no_grad():
            conv.weight *= max(largest // 7, 1)
    program, batch, expected = lowered(conv, pack=pack)
    operator = operator_of(program)
    assert operator.input.planes == PLANES and operator.input.binary
    assert operator.together == together or pack
    path = tmp_path / "m.svit"
    path.write_bytes(native_bytes(with_tile(program, tile)))
    np.testing.assert_array_equal(NativeModel(path).logits(batch), expected)
    # Rows of 4 bits as they are in the file, as where there is little memory.
    monkeypatch.setattr(NativeModel, "_unpack", lambda _: None)
    np.testing.assert_array_equal(NativeModel(path).logits(batch), expected)


@pytest.mark.parametrize("tile", [0, 1])
def test_more_rows_of_a_pattern_than_16_bits_hold(tile: int, tmp_path: Path) -> None:
    conv = conv_of(700, 20, 1, largest=127)
    with torch.no_grad():
        conv.weight[:, 1:] = 127 * 2.0**-6
        conv.weight[1::2, 1:] *= -1.0
    program, batch, expected = lowered(conv, pack=False)
    assert 0 < operator_of(program).block_rows <= 258
    path = tmp_path / "m.svit"
    path.write_bytes(native_bytes(with_tile(program, tile)))
    np.testing.assert_array_equal(NativeModel(path).logits(batch), expected)
