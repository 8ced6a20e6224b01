from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_models import with_config

from primesvt_deploy.analysis.cost import measure_cost
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.model.svit import SViT


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"timesteps": 1}, {"v_reset": None}, {"tau": 3.0}, {"decay_input": False}],
    ids=str,
)
def test_the_artifact_gives_the_models_logits(
    tiny: SViT, tmp_path: Path, changes: dict[str, object]
) -> None:
    model = with_config(tiny, **changes)
    batch = images(24)
    expected = model.logits(torch.from_numpy(batch)).numpy()
    found = OnnxModel(export_onnx(model, tmp_path / "m.onnx").path).logits(batch)
    # A flipped spike may move single images; a wrong graph moves all.
    agreeing = np.abs(found - expected).max(axis=1) <= 1e-4
    assert agreeing.mean() >= 0.9
    assert expected.std() > 1e-3


def test_any_batch_size_runs(tiny: SViT, tiny_artifact: Artifact) -> None:
    model = OnnxModel(tiny_artifact.path)
    assert model.fixed_batch is None
    batch = images(5)
    together = model.logits(batch)
    apart = np.concatenate([model.logits(batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, apart, atol=1e-4)


@pytest.mark.slow
def test_a_fixed_batch_is_fixed(tiny: SViT, tmp_path: Path) -> None:
    model = OnnxModel(export_onnx(tiny, tmp_path / "one.onnx", batch=1).path)
    assert model.fixed_batch == 1
    expected = tiny.logits(torch.from_numpy(images(1))).numpy()
    np.testing.assert_allclose(model.logits(images(1)), expected, atol=1e-4)


def test_format_is_one_that_onnxruntime_1_20_loads(tiny_artifact: Artifact) -> None:
    proto = onnx.load(tiny_artifact.path)
    assert proto.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert {node.domain for node in proto.graph.node} == {""}


def test_no_initializer_is_dead_or_doubled(tiny_artifact: Artifact) -> None:
    graph = onnx.load(tiny_artifact.path).graph
    used = {name for node in graph.node for name in node.input}
    assert {entry.name for entry in graph.initializer} <= used
    contents = [
        hashlib.sha256(
            onnx.numpy_helper.to_array(entry).tobytes() + str(entry.dims).encode()
        ).digest()
        for entry in graph.initializer
        if len(entry.dims) > 1
    ]
    assert len(set(contents)) == len(contents)


def test_initializers_are_the_models_parameters(tiny: SViT, tiny_artifact: Artifact) -> None:
    shipped = 4 * measure_cost(tiny).shipped_parameters
    # Beside weights there are but a few scalars, shapes and axes.
    assert 0 <= tiny_artifact.initializer_bytes - shipped <= 512


def test_names_follow_the_modules(tiny_artifact: Artifact) -> None:
    graph = onnx.load(tiny_artifact.path).graph
    nodes = {node.name: node.op_type for node in graph.node}
    assert nodes["stem.0.conv"] == "Conv"
    assert nodes["blocks.1.mlp.fc2.conv"] == "Conv"
    assert nodes["blocks.0.attn.q.fired.t2"] == "LessOrEqual"
    assert len(nodes) == len(graph.node), "node names are not unique"
    names = [output for node in graph.node for output in node.output]
    assert len(set(names)) == len(names)
    weights = {entry.name for entry in graph.initializer}
    assert {"stem.0.conv.weight", "blocks.0.attn.proj.conv.bias", "head.weight"} <= weights


def test_the_static_first_convolution_runs_once(tiny: SViT, tiny_artifact: Artifact) -> None:
    graph = onnx.load(tiny_artifact.path).graph
    readers = [node for node in graph.node if "images" in node.input]
    assert [node.op_type for node in readers] == ["Conv"]
    batch = onnx.shape_inference.infer_shapes(onnx.load(tiny_artifact.path)).graph.value_info
    first = next(info for info in batch if info.name == readers[0].output[0])
    assert first.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_an_old_file_is_replaced_whole(tiny: SViT, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    export_onnx(tiny, path)
    onnx.checker.check_model(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
