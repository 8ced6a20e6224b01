"""The part of an artifact that is exact is split off, and computes what the whole computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import make_model

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.devices.emulated_arm.guest import output_digests
from primesvt_deploy.devices.emulated_arm.integer_part import IntegerPart, split_integer_part
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

IMAGES = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    twin = quantize(make_model(), 8, None)
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    return export_onnx(twin, path, precision=Precision.INT8)


def split(artifact: Path, folder: Path, images: np.ndarray = IMAGES) -> IntegerPart:
    part = split_integer_part(artifact, images, folder)
    assert part is not None
    return part


def outputs(model: Path, names: tuple[str, ...], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = OnnxModel(model, threads=1).session.run(names, inputs)
    return found


@pytest.mark.slow
def test_behind_pixels_all_is_exact(tmp_path: Path) -> None:
    """The first layer's sums are exact, so that its spikes belong to the part, too."""
    twin = quantize(make_model(), 8, None, integer_input=True)
    artifact = export_onnx(twin, tmp_path / "model.onnx", precision=Precision.INT8)
    pixels = np.random.default_rng(0).integers(0, 256, IMAGES.shape, dtype=np.uint8)
    part = split(artifact.path, tmp_path, pixels)
    assert "stem.0.spikes.t0" in part.spikes
    with np.load(part.inputs) as arrays:
        inputs = dict(arrays)
    assert [value.dtype for value in inputs.values()] == [np.uint8]
    fired = outputs(part.model, part.spikes, inputs)
    whole = onnx.load(artifact.path)
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in part.spikes)
    onnx.save(whole, tmp_path / "probe.onnx")
    expected = outputs(tmp_path / "probe.onnx", part.spikes, {"images": pixels})
    assert all(np.array_equal(a, b) for a, b in zip(fired, expected, strict=True))


def test_its_spikes_are_those_of_the_whole(integers: Artifact, tmp_path: Path) -> None:
    part = split(integers.path, tmp_path)
    assert part.images == 4
    every = [name for layer in integers.layers for name in layer.spikes]
    assert sorted(part.spikes) == sorted(every)
    whole = onnx.load(integers.path)
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in part.spikes)
    onnx.save(whole, tmp_path / "every.onnx")
    expected = outputs(tmp_path / "every.onnx", part.spikes, {whole.graph.input[0].name: IMAGES})
    with np.load(part.inputs) as currents:
        found = outputs(part.model, part.spikes, dict(currents))
    assert any(value.any() for value in found)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_takes_the_float_layers_currents_alone(integers: Artifact, tmp_path: Path) -> None:
    part = split(integers.path, tmp_path)
    graph = onnx.load(part.model).graph
    assert [value.name for value in graph.input] == ["stem.0.conv"]
    assert not [node for node in graph.node if node.op_type == "Conv"]


def test_hashes_tell_other_inputs_apart(integers: Artifact, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for folder in folders:
        folder.mkdir()
    images = [IMAGES, IMAGES, IMAGES + 0.5]
    parts = [split(integers.path, f, i) for f, i in zip(folders, images, strict=True)]
    one, again, other = (output_digests(part.model, part.inputs) for part in parts)
    assert set(one) == set(parts[0].spikes)
    assert one == again
    assert one != other


def test_a_float_artifact_has_none(tiny_artifact: Artifact, tmp_path: Path) -> None:
    assert split_integer_part(tiny_artifact.path, IMAGES, tmp_path) is None


def test_spikes_that_hang_on_the_images_otherwise_are_left_out(
    integers: Artifact, tmp_path: Path
) -> None:
    model = onnx.load(integers.path)
    told = next(entry for entry in model.metadata_props if entry.key == "primesvt.real")
    told.value = '["stem.0.conv.of.another.name"]'
    onnx.save(model, tmp_path / "other.onnx")
    assert split_integer_part(tmp_path / "other.onnx", IMAGES, tmp_path) is None
    told.value = "[null]"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match=r"primesvt\.real in the ONNX file is damaged"):
        split_integer_part(tmp_path / "other.onnx", IMAGES, tmp_path)
