"""All products of a layer in the engine: the same numbers as the rows of its active inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering.native.test_weighted import Config, Layer, conv_of, images
from lowering.native.test_wide_sums import lowered, operator_of, with_tile
from torch import nn

from primesvt_deploy.artifact.native_file import arena_bytes, native_bytes
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.native.lower import lower_to_native
from primesvt_deploy.lowering.native.products import with_products
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import SparseOp
from primesvt_deploy.lowering.native.small_memory import in_little_memory
from primesvt_deploy.lowering.trace import trace

ALWAYS = "-DSVIT_TAKES_PRODUCTS=1"
_SUPPORTED = "__builtin_cpu_supports(x)"
NO_VNNI = f"'-D{_SUPPORTED}=(sizeof(x)!=sizeof\"avx512vnni\"&&{_SUPPORTED})'"
AVX2 = "'-D__builtin_cpu_supports(x)=((x)[3]==50)'"
INSTRUCTIONS = {"all": "", "no VNNI": NO_VNNI, "AVX2": AVX2}
"""What the compiler is told of the processor's instructions."""


@pytest.fixture(params=INSTRUCTIONS)
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are taken wherever they may be."""
    monkeypatch.setenv("CC", f"cc -O1 {ALWAYS} {INSTRUCTIONS[request.param]}")


def gathering(program: NativeProgram, positions: int) -> NativeProgram:
    """The program with so many positions whose counts are gathered, in any memory."""
    return replace(
        program,
        operators=tuple(
            replace(op, gathered=positions) if isinstance(op, SparseOp) else op
            for op in program.operators
        ),
    )


def logits(program: NativeProgram, batch: np.ndarray, path: Path, threads: int = 1) -> np.ndarray:
    path.write_bytes(native_bytes(program))
    return NativeModel(path, threads=threads).logits(batch)


@pytest.mark.slow
@pytest.mark.parametrize("positions", [1, 3, 8])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "pack"),
    [(60, 200, 1, False), (130, 33, 3, False), (13, 64, 3, False), (300, 70, 1, True)],
)
@pytest.mark.usefixtures("always")
def test_counts_of_a_stream(
    inputs: int, outputs: int, kernel: int, pack: bool, positions: int, tmp_path: Path
) -> None:
    conv = conv_of(inputs, outputs, kernel, largest=7 if pack else 127, padding=kernel // 2)
    program, batch, expected = lowered(conv, pack=pack)
    assert operator_of(program).input.binary
    for threads in (1, 2):
        found = logits(gathering(program, positions), batch, tmp_path / "m.svit", threads)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "levels"), [(1, 1), (3, 1), (9, 1), (20, 1), (1, 8), (2, 4), (4, 3), (10, 2)]
)
@pytest.mark.parametrize("geometry", [{"padding": 1}, {"stride": 2, "padding": 2, "dilation": 2}])
@pytest.mark.usefixtures("always")
def test_spikes(steps: int, levels: int, geometry: dict[str, int], tmp_path: Path) -> None:
    config = Config(timesteps=steps, channels=12, size=4)
    layer = Layer(conv_of(12, 9, 3, largest=30, **geometry), steps, levels)
    program = lower_to_native(trace(layer.eval(), config, 1))  # type: ignore[arg-type]
    batch = images(config)
    with torch.no_grad():
        expected = np.concatenate([layer(torch.from_numpy(x[None])).numpy() for x in batch])
    found = logits(gathering(program, 4), batch, tmp_path / "m.svit")
    np.testing.assert_array_equal(found, expected)


class Pooled(nn.Module):
    """A layer of spikes whose currents are pooled."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        currents = nn.functional.max_pool2d(layer.conv(layer.encode(x)), 3, 2, 1)
        return layer.fire(currents).mean((2, 3)).unflatten(0, (layer.steps, -1)).mean(0)


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_currents_are_pooled(tmp_path: Path) -> None:
    config = Config(timesteps=4, channels=30, size=8)
    layer = Pooled(Layer(conv_of(30, 70, 3, largest=90, padding=1), 4)).eval()
    program = lower_to_native(trace(layer, config, 1))  # type: ignore[arg-type]
    (operator,) = (op for op in program.operators if isinstance(op, SparseOp))
    assert operator.sink.pooled
    batch = images(config)
    with torch.no_grad():
        expected = np.concatenate([layer(torch.from_numpy(x[None])).numpy() for x in batch])
    for threads in (1, 2):
        found = logits(gathering(program, 8), batch, tmp_path / "m.svit", threads)
        np.testing.assert_array_equal(found, expected)


def test_products_take_no_memory_that_is_not_there() -> None:
    config = Config(timesteps=4, channels=40, size=9)
    layer = Layer(conv_of(40, 60, 3, largest=50, padding=1), 4)
    program = lower_to_native(trace(layer.eval(), config, 1))  # type: ignore[arg-type]
    without = arena_bytes(native_bytes(gathering(program, 0)))
    assert arena_bytes(native_bytes(with_products(gathering(program, 0)))) == without
    assert arena_bytes(native_bytes(gathering(program, 8))) > without


def test_layers_with_room_for_them_may_sum_products() -> None:
    program, *_ = lowered(conv_of(220, 40, 1, largest=127), pack=False)
    roomy = with_tile(gathering(program, 0), 64)  # its lists take more memory
    found = with_products(roomy)
    assert operator_of(found).gathered == 32 // operator_of(found).input.steps
    assert arena_bytes(native_bytes(found)) == arena_bytes(native_bytes(roomy))
    assert operator_of(with_products(with_tile(roomy, 1))).gathered == 0
    assert operator_of(in_little_memory(found)).gathered == 0
