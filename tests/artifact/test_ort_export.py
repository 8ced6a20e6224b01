"""The optimized forms of a model file: what they compute, and where they load."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.artifact.ort_export import write_optimized_onnx, write_ort_file
from primesvt_deploy.edge.runtime.profiles import SessionProfile, make_profile
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import ExportError
from primesvt_deploy.model.svit import SViT

EXTENDED = SessionProfile(name="extended", graph_optimization_level="extended")
AS_IT_IS = SessionProfile(name="as it is", graph_optimization_level="disabled")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[np.float32]]:
    """The committed reference model, exported, and some images of its own."""
    model = load("spikformer-2-192-cifar10")
    path = export_onnx(model, tmp_path_factory.mktemp("reference") / "model.onnx").path
    return path, open_data(model).held_out.inputs(0, 16)


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """DequantizeLinear -> MatMul with int8 weights, as ONNX Runtime likes to rewrite it."""
    weights = np.random.default_rng(0).integers(-127, 128, (64, 32), dtype=np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["weights"], axis=0),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "quantized",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(weights, "codes"),
            numpy_helper.from_array(np.float32(0.01), "scale"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "q.onnx")
    return tmp_path / "q.onnx"


@pytest.mark.slow
def test_outputs_are_those_of_the_model_to_the_last_bit(
    reference: tuple[Path, npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    path, images = reference
    expected = OnnxModel(path, threads=1, profile=EXTENDED).logits(images)
    assert expected.std() > 0.1
    optimized = write_optimized_onnx(path, tmp_path / "optimized.onnx")
    own = write_ort_file(path, tmp_path / "model.ort")
    for file in (optimized, own):
        found = OnnxModel(file, threads=1, profile=AS_IT_IS).logits(images)
        np.testing.assert_array_equal(found, expected)
    for file in (path, own):
        found = OnnxModel(file, threads=1, profile=make_profile("low-memory", file.name))
        # Without prepacking some CPUs round otherwise, and a flipped spike moves an image.
        agreeing = np.abs(found.logits(images) - expected).max(axis=1) <= 1e-5
        assert agreeing.mean() >= 0.8


def test_no_layout_of_this_machines_cpu_is_in_the_files(
    reference: tuple[Path, npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    path, _ = reference
    proto = onnx.load(write_optimized_onnx(path, tmp_path / "optimized.onnx"))
    assert {node.domain for node in proto.graph.node} <= {"", "com.microsoft"}
    assert "ReorderInput" not in {node.op_type for node in proto.graph.node}
    own = write_ort_file(path, tmp_path / "model.ort").read_bytes()
    # The format lists every domain; its nodes name their operators.
    assert not re.search(rb"Reorder(Input|Output)", own)
    assert b"ThresholdedRelu" in own


def test_only_domains_in_use_are_imported(
    reference: tuple[Path, npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Onnxruntime 1.16 refuses versions it does not know, of domains that no node is of."""
    proto = onnx.load(write_optimized_onnx(reference[0], tmp_path / "optimized.onnx"))
    found = {entry.domain: entry.version for entry in proto.opset_import}
    assert found == {"": 18, "com.microsoft": 1}
    assert proto.ir_version == 8


def test_neurons_stay_described(
    reference: tuple[Path, npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    before = onnx.load(reference[0]).metadata_props
    after = onnx.load(write_optimized_onnx(reference[0], tmp_path / "m.onnx")).metadata_props
    assert {p.key: p.value for p in before}.items() <= {p.key: p.value for p in after}.items()


def test_quantized_weights_are_not_computed_in_another_way(quantized: Path) -> None:
    optimized = write_optimized_onnx(quantized, quantized.with_name("optimized.onnx"))
    operators = {node.op_type for node in onnx.load(optimized).graph.node}
    assert "MatMulNBits" not in operators
    own = write_ort_file(quantized, quantized.with_name("q.ort"))
    assert b"MatMulNBits" not in own.read_bytes()
    images = np.random.default_rng(1).standard_normal((4, 1, 8, 8)).astype(np.float32)
    expected = OnnxModel(quantized, profile=AS_IT_IS).logits(images)
    for file in (optimized, own):
        found = OnnxModel(file, profile=AS_IT_IS).logits(images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_files_are_replaced_whole_and_nothing_is_left_beside(tiny: SViT, tmp_path: Path) -> None:
    path = export_onnx(tiny, tmp_path / "m.onnx").path
    (tmp_path / "m.ort").write_bytes(b"old")
    assert write_ort_file(path, tmp_path / "m.ort") == tmp_path / "m.ort"
    write_optimized_onnx(path, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.ort"]
    OnnxModel(path)


def test_what_onnxruntime_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for write, name in ((write_ort_file, "m.ort"), (write_optimized_onnx, "m.onnx")):
        with pytest.raises(ExportError, match=r"cannot optimize bad\.onnx") as caught:
            write(tmp_path / "bad.onnx", tmp_path / name)
        assert str(caught.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_another_ending_than_ort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m\.bin does not end with \.ort"):
        write_ort_file(tmp_path / "m.onnx", tmp_path / "m.bin")
