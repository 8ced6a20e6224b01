from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.edge.bench.initializers import initializer_bytes
from primesvt_deploy.errors import BundleError


def test_bytes_are_those_that_onnx_reads(tiny_artifact: Artifact) -> None:
    model = onnx.load(tiny_artifact.path)
    expected = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    assert initializer_bytes(tiny_artifact.path) == expected > 0


def test_an_ort_file_is_read_too(tiny_artifact: Artifact) -> None:
    found = initializer_bytes(tiny_artifact.path.with_name("model.ort"))
    assert found is not None
    assert 0 < found < tiny_artifact.path.with_name("model.ort").stat().st_size


def test_tensors_without_raw_data_count_by_shape_and_type(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor("a", TensorProto.FLOAT, (3, 5), np.zeros(15)),
        helper.make_tensor("b", TensorProto.INT64, (7,), range(7)),
        helper.make_tensor("c", TensorProto.UINT8, (), [1]),
    ]
    graph = helper.make_graph([], "g", [], [], tensors)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert initializer_bytes(tmp_path / "m.onnx") == 4 * 15 + 8 * 7 + 1


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_file_cut_short_is_refused(tiny_artifact: Artifact, tmp_path: Path, keep: float) -> None:
    data = tiny_artifact.path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(BundleError, match=r"m\.onnx is no whole ONNX file"):
        initializer_bytes(tmp_path / "m.onnx")
