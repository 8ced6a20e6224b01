"""One sample by several threads gives the same logits, to the last bit."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from families.zoo import FORMS, model_of, samples_of

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

COUNTS = ((2, 7), (3, 2), (7, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "counts"), zip(FORMS, itertools.cycle(COUNTS), strict=False))
def test_threads_change_nothing(name: str, counts: tuple[int, int], tmp_path: Path) -> None:
    """Two numbers of threads a family: each number meets most of them."""
    model = model_of(name)
    path = export_native(quantize(model, 8), tmp_path / "m.svit", precision=Precision.INT8).path
    alone, batch = NativeModel(path), samples_of(model, 2)
    expected = alone.logits(batch)
    for threads in counts:
        together = NativeModel(path, threads=threads)
        for _ in range(3):
            for sample, logits in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(together.logits(sample[None])[0], logits)
