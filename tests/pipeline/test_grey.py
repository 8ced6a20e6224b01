"""A grey model, from its checkpoint to a prediction: every step takes one channel."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import LABELS, SHALLOW, make_model, make_prunable, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.edge.bench.configurations import configurations_of, open_subject
from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.samples import write_samples
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision, Runtime
from primesvt_deploy.verification.bundle import verify_bundle

pytestmark = pytest.mark.slow

SEARCH = SearchSettings(search_images=60, robustness_images=50, rates=(0.3,), max_drop=100.0)


@pytest.fixture(scope="module")
def model() -> SViT:
    return replace(make_prunable(replace(SHALLOW, in_channels=1)), notes=("a note",))


@pytest.fixture(scope="module")
def source(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "data.npz", model)


@pytest.fixture(scope="module")
def bundle(model: SViT, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = BuildSettings(
        saving=10.0, precision=Precision.INT8, search=SEARCH, verify_images=24,
        runtime=Runtime.BOTH, mcu=True, integer_input=True,
    )  # fmt: skip
    output = tmp_path_factory.mktemp("built") / "b"
    return build(model, output, settings, data=open_data(model, source)).path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A grey PNG of the model's size, and an RGB JPEG that is larger."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels[:16, :16, 0]).save(folder / "grey.png")
    Image.fromarray(pixels).save(folder / "colours.jpg")
    return [folder / "grey.png", folder / "colours.jpg"]


def test_the_manifest_and_the_source_have_one_channel(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["input"]["shape"] == ["batch", 1, 16, 16]
    assert (manifest["input"]["color"], manifest["input"]["dtype"]) == ("grey", "uint8")
    assert manifest["model"]["preprocessing"]["mean"] == [0.5]
    assert manifest["notes"] == ["a note"]
    for verification in (manifest["verification"], manifest["native"]["verification"]):
        assert verification["flipped_spikes"] == 0 < verification["spikes_compared"]
    headers = [path.read_text() for path in bundle.rglob("*.h")]
    assert any("#define SVIT_MODEL_CHANNELS 1\n" in header for header in headers)


@pytest.mark.parametrize("runtime", ["onnx", "native"])
def test_it_is_verified_and_checked(bundle: Path, source: Path, runtime: str) -> None:
    assert verify_bundle(bundle, data=source, images=24, runtime=runtime).flipped_spikes == 0
    stored = check_outputs(bundle, runtime=runtime)
    assert stored.agreeing == stored.n > 1


def predictions(bundle: Path, images: list[Path], runtime: str) -> list[Any]:
    command = [sys.executable, bundle / "run.py", *images, "--json", "--runtime", runtime]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line)["logits"] for line in ended.stdout.splitlines()]


def test_grey_and_coloured_files_are_classified_alike(bundle: Path, images: list[Path]) -> None:
    """By the bundle's own script, in either runtime, as what Pillow makes grey."""
    onnx, native = (predictions(bundle, images, runtime) for runtime in ("onnx", "native"))
    np.testing.assert_allclose(onnx, native, rtol=0, atol=1e-5)
    steps = replace(load(bundle).preprocessing, pixels=True)
    grey = [np.asarray(Image.open(path).convert("L"))[..., None] for path in images]
    expected = OnnxModel(bundle / "model.onnx").logits(np.stack([steps.apply(x) for x in grey]))
    np.testing.assert_allclose(onnx, expected, rtol=0, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_it_is_measured_with_grey_images(bundle: Path, tmp_path: Path) -> None:
    subject = open_subject(bundle, "grey")
    path = write_samples(subject, tmp_path / "samples.npy")
    assert path is not None
    samples = np.load(path)
    assert samples.shape[1:] == (1, 16, 16) and samples.dtype == np.uint8
    settings = BenchSettings(batches=(2,), threads=(1,), profiles=("latency",))
    for configuration in configurations_of([subject], settings, cores=1):
        with Worker(configuration, path) as worker:
            assert worker.loading["sample_shape"] == [1, 16, 16]
            assert len(worker.time(2)) == 2


def test_a_folder_of_grey_files_is_what_the_arrays_are(
    model: SViT, source: Path, tmp_path: Path
) -> None:
    with np.load(source) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "d" / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{number:03}.png")
    found, expected = open_data(model, tmp_path / "d"), open_data(model, source)
    total = [
        np.sort(data.search.inputs(0, len(data.search)).sum(axis=(1, 2, 3)))
        for data in (found, expected)
    ]
    assert [len(part) for part in total] == [120, 120]


def test_colours_in_arrays_are_refused(model: SViT, tmp_path: Path) -> None:
    coloured = make_model(SHALLOW)
    with pytest.raises(DataError, match="convert their colours"):
        open_data(model, write_arrays(tmp_path / "d.npz", coloured))
