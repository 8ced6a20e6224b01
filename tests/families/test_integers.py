"""Integer artifacts of every family compute exactly what their quantized model computes.

Those of ONNX Runtime, and those of the native engine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families.zoo import ZOO, model_of, samples_of

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.passes import trace_network
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.native import NativeComparison
from primesvt_deploy.verification.spikes import FlipCounter, neuron_layers

pytestmark = pytest.mark.slow

NEVER_SPARSE = ("its input is real", "its convolution is grouped", "its weights are not of 8 bits",
                "its input is beyond 255")  # fmt: skip
"""Why a layer runs on float32 in the native engine."""


@pytest.mark.parametrize("name", ZOO)
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
    check_native(quantized, precision, batch[:2], tmp_path)


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


def check_native(quantized: SViT, precision: Precision, batch: np.ndarray, folder: Path) -> None:
    """No spike differs behind the float layers, and only layers without counts are float ones."""
    traced = trace_network(quantized.module.float(), quantized.config, exact=True)
    shipped = export_native(quantized, folder / "m.svit", precision=precision, traced=traced)
    watched = export_native(
        quantized,
        folder / "o.svit",
        precision=precision,
        observe_float_layers=True,
        traced=traced,
    )
    engine = NativeModel(watched.path)
    comparison = NativeComparison(quantized, engine, watched, share=True)
    expected = comparison.compare(batch)
    assert comparison.compared > 0 and not comparison.per_image().any()
    assert watched.observed.keys() >= neuron_layers(quantized).keys()
    logits = NativeModel(shipped.path).logits(batch)
    np.testing.assert_array_equal(logits, engine.logits(batch))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).max() > 0.01
    assert shipped.integer_layers
    assert set(shipped.float_layers.values()) <= set(NEVER_SPARSE)
