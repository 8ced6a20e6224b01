"""Integer artifacts of every family compute exactly what their quantized twin computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import make_model
from families.zoo import ZOO

from primesvt_deploy.artifact.onnx_file import Artifact, export_onnx
from primesvt_deploy.config import Precision
from primesvt_deploy.flips import FlipCounter
from primesvt_deploy.lowering.counts import find_counts
from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import unroll
from primesvt_deploy.model import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.runtime.session import OnnxModel

every_network = pytest.mark.parametrize("name", ZOO)


def model_of(name: str) -> SViT:
    family, config = ZOO[name]
    return make_model(config, family=family)


def samples_of(model: SViT, count: int) -> np.ndarray:
    """As data sets give them."""
    steps = (model.timesteps,) if model.config.frames else ()
    shape = (count, *steps, *model.config.input_shape)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@every_network
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_no_spike_flips(
    name: str, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = model_of(name), None
    batch = samples_of(model, 4)
    if precision is Precision.INT4:
        samples = torch.from_numpy(batch)
    twin = quantize(model, precision.bits, samples)
    graph = trace(lower(twin.module.float()), twin.config, None)
    # Traced once for both kinds of operators.
    monkeypatch.setattr("primesvt_deploy.artifact.onnx_file.trace", lambda *_: graph.clone())
    for standard in (False, True) if precision is Precision.INT8 else (False,):
        path = tmp_path / "model.onnx"
        artifact = export_onnx(twin, path, precision=precision, standard=standard)
        check_integers(twin, artifact, batch, standard)


def check_integers(twin: SViT, artifact: Artifact, batch: np.ndarray, standard: bool) -> None:
    """The artifact gives what the twin gives, and its layers run on integers."""
    counts = FlipCounter(twin, artifact.path, 1, share_real=True)
    expected = counts.compare(batch)
    assert counts.of_integers
    assert counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0.01
    graph = onnx.load(artifact.path).graph
    products = {"MatMulInteger", "MatMulIntegerToFloat"}
    kinds = [node.op_type for node in graph.node if node.op_type in products]
    assert len(kinds) >= len(artifact.integer) > 0
    if standard:
        assert {node.domain for node in graph.node} == {""}


@every_network
def test_tensors_said_to_hold_counts_do(name: str, tmp_path: Path) -> None:
    """Structure alone tells; here every such tensor of the float graph is looked at."""
    model = model_of(name)
    traced = trace(lower(model.module.float()), model.config, None)
    counts = {str(v.name): c for v, c in find_counts(traced.graph).items()}
    unroll(traced)
    assert counts
    proto = onnx.ModelProto()
    import onnx_ir as ir

    proto = ir.serde.serialize_model(traced)
    produced = {output for node in proto.graph.node for output in node.output}
    looked = [name for name in counts if name in produced]
    for tensor in looked:
        if tensor not in {o.name for o in proto.graph.output}:
            proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    session = OnnxModel(path, threads=1).session
    batch = samples_of(model, 3)
    feed = {session.get_inputs()[0].name: batch.swapaxes(0, 1) if batch.ndim == 5 else batch}
    assert looked
    for tensor, found in zip(looked, session.run(looked, feed), strict=True):
        said = counts[tensor]
        levels = found / said.unit
        assert np.abs(levels - levels.round()).max() < 1e-3, tensor
        assert levels.min() >= 0 and levels.max() <= said.most + 1e-3, tensor
