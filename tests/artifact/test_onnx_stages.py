"""An ONNX file of stages: it gives what its stages alone give, and runs no more of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from random_images import random_images
from staged_models import normalised, stage_models

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.artifact.onnx_stages import join_stages, split_stages
from primesvt_deploy.artifact.runtime_versions import required_versions
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.edge.runtime.stages import Stage, margins_of
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.onnx_stages import verify_onnx_stages

pytestmark = pytest.mark.slow  # networks are traced

PRODUCT = "MatMulIntegerToFloat"
IMAGES = normalised(np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """The stages, a file each, of 4 bits: their weights are unpacked by a function."""
    folder = tmp_path_factory.mktemp("alone")
    return [
        export_onnx(model, folder / f"{model.timesteps}.onnx", precision=Precision.INT4)
        for model in stage_models(4)
    ]


@pytest.fixture(scope="module")
def stages(alone: list[Artifact]) -> list[Stage]:
    """Margins that some images reach in each stage, and some in neither."""
    found = [margins_of(OnnxModel(artifact.path).logits(IMAGES)) for artifact in alone[:-1]]
    margins = [*(float(np.quantile(each, 0.6)) for each in found), 0.0]
    return [Stage(model.timesteps, m) for model, m in zip(stage_models(4), margins, strict=True)]


@pytest.fixture(scope="module")
def joined(alone: list[Artifact], stages: list[Stage]) -> Artifact:
    return join_stages(alone, stages, alone[0].path.with_name("joined.onnx"))


@pytest.mark.parametrize("size", [1, 2, 5, 24])
def test_every_sample_has_the_logits_of_the_first_stage_that_is_sure(
    size: int, alone: list[Artifact], stages: list[Stage], joined: Artifact
) -> None:
    models, model = [OnnxModel(artifact.path) for artifact in alone], OnnxModel(joined.path)
    assert model.stages == tuple(stages)
    taken: set[int] = set()
    for start in range(0, len(IMAGES), size):
        batch = IMAGES[start : start + size]
        logits, timesteps = model.logits_and_timesteps(batch)
        np.testing.assert_array_equal(model.logits(batch), logits)
        each = np.stack([other.logits(batch) for other in models])
        final = [m >= s.margin for m, s in zip(map(margins_of, each), stages, strict=True)]
        final[-1][:] = True
        number = np.argmax(final, axis=0)
        np.testing.assert_array_equal(logits, each[number, np.arange(len(batch))])
        np.testing.assert_array_equal(timesteps, [stages[i].timesteps for i in number])
        taken.update(timesteps.tolist())
    assert taken == {stage.timesteps for stage in stages}


def test_a_stage_runs_only_where_one_before_is_not_sure(
    alone: list[Artifact], stages: list[Stage], joined: Artifact, tmp_path: Path
) -> None:
    margins = margins_of(OnnxModel(alone[0].path).logits(IMAGES))
    order = margins.argsort()
    sure, unsure = IMAGES[order[-1:]], IMAGES[order[:1]]
    assert margins.max() >= stages[0].margin > margins.min()
    assert _ran(joined.path, sure, tmp_path / "sure") == {stages[0].timesteps}
    found = _ran(joined.path, np.concatenate([sure, unsure]), tmp_path / "unsure")
    assert found >= {stages[0].timesteps, stages[1].timesteps}


def _ran(path: Path, batch: npt.NDArray[np.float32], prefix: Path) -> set[int]:
    """Timesteps of the stages whose logits ONNX Runtime computed."""
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: batch})
    events = json.loads(Path(session.end_profiling()).read_text())
    names = {event["name"].removesuffix("_kernel_time") for event in events}
    last = stage_models(4)[-1].timesteps
    layer = next(n.name for n in split_stages(path)[-1].graph.node if n.op_type == PRODUCT)
    return {t for t in range(1, last + 1) if (layer if t == last else f"T{t}/{layer}") in names}


def test_weights_are_stored_and_unpacked_once(alone: list[Artifact], joined: Artifact) -> None:
    graph = onnx.load(joined.path).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    contents = [(x.dtype.str, x.shape, x.tobytes()) for x in arrays]
    assert len(set(contents)) == len(contents)
    packed = [sum(n.op_type == "Unpack4" for n in onnx.load(a.path).graph.node) for a in alone]
    assert packed[-1] and max(packed) == sum(node.op_type == "Unpack4" for node in graph.node)
    branches = [x.g for node in graph.node for x in node.attribute if node.op_type == "If"]
    assert branches and not any(branch.initializer for branch in branches)
    outputs = sum(
        len(m.weight) for m in stage_models(4)[-1].module.modules() if hasattr(m, "weight")
    )
    # Of each early stage scales and biases, some twice, and constants of its decision.
    more = 2 * (3 * 4 * outputs + 256)
    assert joined.initializer_bytes <= alone[-1].initializer_bytes + more


def test_a_file_is_split_into_what_it_was_joined_of(
    alone: list[Artifact], joined: Artifact, tmp_path: Path
) -> None:
    for artifact, stage in zip(alone, split_stages(joined.path), strict=True):
        onnx.checker.check_model(stage, full_check=True)
        expected = onnx.load(artifact.path)
        names = [sorted(node.name for node in m.graph.node) for m in (stage, expected)]
        assert names[0] == names[1]
        properties = [{x.key: x.value for x in m.metadata_props} for m in (stage, expected)]
        assert properties[0] == properties[1]
        onnx.save(stage, tmp_path / "stage.onnx")
        found = OnnxModel(tmp_path / "stage.onnx").logits(IMAGES)
        np.testing.assert_array_equal(found, OnnxModel(artifact.path).logits(IMAGES))
    assert len(split_stages(alone[0].path)) == 1
    assert required_versions(joined.path) == required_versions(alone[-1].path)


def test_a_file_of_other_stages_is_caught(
    alone: list[Artifact], stages: list[Stage], joined: Artifact, tmp_path: Path
) -> None:
    images = random_images(stage_models(4)[-1], 24)
    with pytest.raises(VerificationError, match="has 3 stages, expected 2"):
        verify_onnx_stages(stage_models(4)[1:], joined.path, images)
    model = onnx.load(joined.path)
    for tensor in model.graph.initializer:
        if tensor.name == f"T{stages[0].timesteps}/least":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.0), tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="stops at other stages than its margins say"):
        verify_onnx_stages(stage_models(4), tmp_path / "other.onnx", images)
    with pytest.raises(BundleError, match="does not stop early"):
        OnnxModel(alone[0].path).logits_and_timesteps(IMAGES)
