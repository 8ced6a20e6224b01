"""A program in little memory gives the same logits, though lists are added in several goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SHALLOW, make_model

from primesvt_deploy.artifact.native_file import native_bytes
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import SparseOp
from primesvt_deploy.lowering.native.scratch import scratch_bytes
from primesvt_deploy.lowering.native.small_memory import in_little_memory
from primesvt_deploy.lowering.passes import lower_to_program
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # networks are traced, and the engine is compiled
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=(Precision.INT8, Precision.INT4))
def program(request: pytest.FixtureRequest) -> NativeProgram:
    """Of layers with far more inputs than are listed at a time, and odd numbers of outputs."""
    model = quantize(make_model(replace(SHALLOW, embed_dim=88)), request.param.bits)
    return lower_to_program(model.module.float(), model.config, precision=request.param)


def logits(program: NativeProgram, path: Path) -> np.ndarray:
    path.write_bytes(native_bytes(program, mean=(0.5,) * 3, std=(0.25,) * 3))
    return NativeModel(path).logits_of_pixels(IMAGES)


def test_it_gives_the_same_logits(program: NativeProgram, tmp_path: Path) -> None:
    expected = logits(program, tmp_path / "whole.svit")
    assert np.array_equal(logits(in_little_memory(program), tmp_path / "small.svit"), expected)
    assert len(np.unique(expected)) > expected.size // 2


def test_layers_work_in_less_memory(program: NativeProgram) -> None:
    def scratch(program: NativeProgram) -> int:
        return max(scratch_bytes(op) for op in program.operators if isinstance(op, SparseOp))

    assert scratch(in_little_memory(program)) < 0.9 * scratch(program)
