"""Bundles whose model takes pixels: every step from the build to a prediction feeds it pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.zoo import model_of
from small_models import SHALLOW, make_model, primesvt, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.predict import Classifier
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision, Runtime
from primesvt_deploy.verification.bundle import verify_bundle

SEARCH = SearchSettings(search_images=60, robustness_images=50, rates=(0.3,), max_drop=100.0)


def settings(**changes: Any) -> BuildSettings:
    given = {"saving": 10.0, "precision": Precision.INT8, "search": SEARCH, "verify_images": 24}
    return BuildSettings(**{**given, **changes}, integer_input=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_model(SHALLOW)


@pytest.fixture(scope="module")
def source(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "data.npz", model)


@pytest.fixture(scope="module")
def data(model: SViT, source: Path) -> DataSet:
    return open_data(model, source)


@pytest.fixture(scope="module")
def bundle(model: SViT, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = settings(runtime=Runtime.BOTH, ort_format=True)
    return build(model, tmp_path_factory.mktemp("built") / "b", wanted, data=data).path


@pytest.mark.slow
def test_the_manifest_says_so(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["input"]["dtype"] == "uint8"
    assert manifest["model"]["preprocessing"]["pixels"] is True
    assert set(manifest["precision"]["real_layers"]) == {"stem.0.conv", "head"}
    assert "exact" in manifest["precision"]["real_layers"]["stem.0.conv"]
    assert set(manifest["native"]["real_layers"]) == {"head"}
    for verification in (manifest["verification"], manifest["native"]["verification"]):
        assert verification["passed"]
        assert verification["flipped_spikes"] == 0
        assert verification["spikes_compared"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "native"])
def test_it_is_verified_and_checked(bundle: Path, source: Path, runtime: str) -> None:
    outcome = verify_bundle(bundle, data=source, images=24, runtime=runtime)
    assert outcome.flipped_spikes == 0
    stored = check_outputs(bundle, runtime=runtime)
    assert stored.agreeing == stored.n > 1


@pytest.mark.slow
def test_an_image_is_classified_alike(bundle: Path, model: SViT, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = {}
    for runtime in ("onnx", "native"):
        classifier = Classifier(bundle, runtime=runtime)
        assert classifier.model.sample_dtype == np.uint8
        (prediction,) = classifier.classify([tmp_path / "image.png"])
        found[runtime] = prediction.logits
    np.testing.assert_allclose(found["onnx"], found["native"], rtol=0, atol=1e-5)
    low = Classifier(bundle, profile="low-memory")
    (prediction,) = low.classify([tmp_path / "image.png"])
    np.testing.assert_allclose(prediction.logits, found["onnx"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_model_in_it_takes_normalised_images(bundle: Path, model: SViT) -> None:
    again = load(bundle)
    assert again.preprocessing == model.preprocessing
    assert again.sample_dtype == np.float32


@pytest.mark.slow
def test_its_memory_is_measured_with_pixels(bundle: Path) -> None:
    assert OnnxModel(bundle / "model.onnx").sample_dtype == np.uint8
    assert measure_memory(bundle / "model.onnx").peak > 20_000_000


@pytest.mark.slow
def test_the_most_accurate_precision_is_an_integer_one(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    manifest = build(model, tmp_path / "b", settings(precision=None), data=data).manifest
    tried = [candidate["precision"] for candidate in manifest["precision"]["candidates"]]
    assert tried == ["int8", "int4"]
    assert manifest["verification"]["flipped_spikes"] == 0


def test_float_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match="precision is fp32: an integer first layer"):
        settings(precision=Precision.FP32)


def test_event_frames_are_refused_before_any_work(tmp_path: Path) -> None:
    frames = model_of("spikformer, frames")
    arrays = np.zeros((120, 2, 2, 16, 16), np.uint8)
    np.savez(tmp_path / "d.npz", frames=arrays, labels=np.arange(120) % 5)
    data = open_data(frames, tmp_path / "d.npz")
    with pytest.raises(SettingsError, match="takes event frames: an integer first layer"):
        build(frames, tmp_path / "b", settings(), data=data)
    assert not (tmp_path / "b").exists()


def test_the_command_line_refuses_float32_weights(tmp_path: Path) -> None:
    ended = primesvt("build", "--saving", "10", "--integer-input", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: precision is fp32: an integer first layer")
    assert ended.stderr.count("\n") == 1
