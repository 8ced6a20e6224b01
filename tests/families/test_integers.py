"""Integer artifacts of every family compute exactly what their quantized model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families.zoo import ZOO, model_of, samples_of

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import FlipCounter

pytestmark = pytest.mark.slow

every_network = pytest.mark.parametrize("name", ZOO)


@every_network
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_no_spike_flips(
    name: str, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = model_of(name), None
    batch = samples_of(model, 4)
    if precision is Precision.INT4:
        samples = torch.from_numpy(batch)
    quantized = quantize(model, precision.bits, samples)
    graph = trace(lower_module(quantized.module.float()), quantized.config, None)
    # Traced once for both kinds of operators.
    monkeypatch.setattr("primesvt_deploy.lowering.passes.trace", lambda *_: graph.clone())
    for standard in (False, True) if precision is Precision.INT8 else (False,):
        path = tmp_path / "model.onnx"
        artifact = export_onnx(quantized, path, precision=precision, standard=standard)
        check_integers(quantized, artifact, batch, standard)


def check_integers(quantized: SViT, artifact: Artifact, batch: np.ndarray, standard: bool) -> None:
    """The artifact gives what the model gives, and its layers run on integers."""
    counts = FlipCounter(quantized, artifact.path, 1, share_float_layers=True)
    expected = counts.compare(batch)
    assert counts.is_integer
    assert counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0.01
    graph = onnx.load(artifact.path).graph
    products = {"MatMulInteger", "MatMulIntegerToFloat"}
    kinds = [node.op_type for node in graph.node if node.op_type in products]
    assert len(kinds) >= len(artifact.integer_layers) > 0
    if standard:
        assert {node.domain for node in graph.node} == {""}
