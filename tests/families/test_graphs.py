"""What holds for the traced float graph of every family, neurons as single nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from families.zoo import ZOO, model_of, samples_of

from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.fold_constants import FoldConstants
from primesvt_deploy.lowering.integer.spike_counts import find_spike_counts
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import Unroll
from primesvt_deploy.model.svit import SViT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ZOO)
def traced(request: pytest.FixtureRequest) -> tuple[SViT, ir.Model]:
    """A model and its graph; tests change a clone."""
    model = model_of(request.param)
    return model, trace(lower_module(model.module.float()), model.config, None)


def written(model: ir.Model) -> bytes:
    return ir.serde.serialize_model(model).SerializeToString(deterministic=True)


def test_a_graph_without_constants_stays_as_it_is(traced: tuple[SViT, ir.Model]) -> None:
    graph = traced[1].clone()
    before = written(graph)
    assert not FoldConstants()(graph).modified
    assert written(graph) == before


def test_tensors_said_to_hold_counts_do(traced: tuple[SViT, ir.Model], tmp_path: Path) -> None:
    """Structure alone tells; here every such tensor is looked at."""
    model, graph = traced[0], traced[1].clone()
    counts = {str(v.name): c for v, c in find_spike_counts(graph.graph).items()}
    Unroll()(graph)
    assert counts
    proto = ir.serde.serialize_model(graph)
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
        assert levels.min() >= 0 and levels.max() <= said.largest + 1e-3, tensor
