"""Event frames: from files to a network's input, and the whole way to a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_model, write_model_directory

from primesvt_deploy import BuildSettings, Classifier, SearchSettings, build, load, open_data
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.errors import ImageError, PreprocessingError
from primesvt_deploy.edge.runtime.frames import FrameSteps, read_frames
from primesvt_deploy.edge.runtime.steps import prepare_file, steps_from_dict
from primesvt_deploy.errors import DataError, DeployError
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.verification.bundle import verify_bundle

STEPS = FrameSteps(timesteps=3, channels=2, height=16, width=16)
CONFIG = SpikformerConfig(
    timesteps=3,
    image_size=16,
    in_channels=2,
    num_classes=5,
    frames=True,
    num_heads=2,
    embed_dim=16,
    depth=1,
    pooling="0011",
    mlp_ratio=2.0,
)


def frame_model() -> SViT:
    model = make_model(CONFIG)
    assert isinstance(model.preprocessing, FrameSteps)
    return model


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Event counts, as integrating a recording gives them."""
    return np.random.default_rng(seed).poisson(0.8, (count, *STEPS.shape)).astype(np.uint8)


def write_frames(path: Path, model: SViT, count: int = 120) -> Path:
    samples = frames(count)
    logits = model.logits(torch.from_numpy(samples).float())
    np.savez(path, frames=samples, labels=logits.argmax(dim=1).numpy())
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    model = frame_model()
    data = open_data(model, write_frames(directory / "d.npz", model))
    search = SearchSettings(max_drop=100.0, rates=(0.5,), robustness_images=50)
    settings = BuildSettings(saving=10.0, search=search, verify_images=40)
    return build(model, directory / "bundle", settings, data=data).path


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.bool_])
def test_frames_are_taken_as_they_are(dtype: Any) -> None:
    one = frames(1)[0].astype(dtype)
    taken = STEPS.apply(one)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, one.astype(np.float32))


def test_steps_survive_json() -> None:
    assert steps_from_dict(json.loads(json.dumps(STEPS.to_dict()))) == STEPS
    with pytest.raises(PreprocessingError, match="timesteps: found 0, expected a whole number"):
        FrameSteps(0, 2, 16, 16)
    with pytest.raises(PreprocessingError, match=r"found the keys \['kind'\]"):
        steps_from_dict({"kind": "frames"})


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (np.zeros((4, 2, 16, 16)), r"expected numbers \[T, C, H, W\] = \[3, 2, 16, 16\]"),
        (np.zeros((3, 2, 16, 16), dtype="U3"), "expected numbers"),
        (np.full((3, 2, 16, 16), np.nan), "NaN, infinity or numbers beyond float32"),
    ],
)
def test_frames_that_do_not_fit(tmp_path: Path, sample: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", sample)
    with pytest.raises(DeployError, match=rf"a.npy: .*{said}"):
        prepare_file(STEPS, tmp_path / "a.npy")


def test_files_of_frames(tmp_path: Path) -> None:
    one = frames(1)[0]
    np.save(tmp_path / "a.npy", one)
    np.savez(tmp_path / "a.npz", frames=one)
    np.savez(tmp_path / "b.npz", events=one)
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY broken")
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read_frames(tmp_path / name), one)
    with pytest.raises(ImageError, match=r"found the arrays \['events'\], expected one called"):
        read_frames(tmp_path / "b.npz")
    with pytest.raises(ImageError, match="found no complete array"):
        read_frames(tmp_path / "c.npy")
    with pytest.raises(ImageError, match="there is no such file"):
        read_frames(tmp_path / "lost.npy")


def test_objects_in_a_file_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="found no complete array"):
        read_frames(tmp_path / "o.npy")


def test_a_model_directory_of_frames_loads_again(tmp_path: Path) -> None:
    model = frame_model()
    again = load(write_model_directory(tmp_path / "m", model))
    assert again.preprocessing == model.preprocessing
    samples = torch.from_numpy(frames(4)).float()
    assert torch.equal(again.logits(samples), model.logits(samples))


def test_a_folder_of_frames_a_class(tmp_path: Path) -> None:
    model = frame_model()
    for label in model.labels:
        (tmp_path / label).mkdir()
        for i, sample in enumerate(frames(24, seed=len(label))):
            np.savez(tmp_path / label / f"{i}.npz", frames=sample)
        (tmp_path / label / "preview.png").write_bytes(b"no frames")
    data = open_data(model, tmp_path)
    assert len(data.search) + len(data.held_out) == 24 * len(model.labels)
    assert data.search.inputs(0, 3).shape == (3, *STEPS.shape)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((9, 16, 16, 3))}, r"no array 'frames' .*\[n, T, C, H, W\]"),
        ({"frames": np.zeros((9, 3, 2, 8, 8))}, r"expected numbers \[T, C, H, W\]"),
    ],
)
def test_arrays_that_are_no_frames_of_this_model(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "d.npz", labels=np.zeros(9, dtype=np.int64), **arrays)
    with pytest.raises(DataError, match=said):
        open_data(frame_model(), tmp_path / "d.npz")


@pytest.mark.slow
def test_the_artifact_takes_time_first(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["input"] == {
        "name": "frames",
        "dtype": "float32",
        "shape": [3, "batch", 2, 16, 16],
        "layout": "TNCHW",
        "color": None,
    }
    assert manifest["size"]["saved_percent"]["file"] >= 10.0
    assert manifest["verification"]["passed"]


def test_a_bundle_of_frames_classifies_as_its_model(bundle: Path, tmp_path: Path) -> None:
    samples = frames(6, seed=9)
    for i, sample in enumerate(samples):
        np.save(tmp_path / f"{i}.npy", sample)
    expected = load(bundle).logits(torch.from_numpy(samples).float()).numpy()
    paths = [tmp_path / f"{i}.npy" for i in range(6)]
    found = [prediction.logits for prediction in Classifier(bundle).classify(paths)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    line = [sys.executable, str(bundle / "run.py"), str(paths[0]), "--json"]
    alone = subprocess.run(line, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(alone.stdout)["logits"], expected[0], atol=1e-4)


def test_a_bundle_of_frames_verifies(bundle: Path) -> None:
    assert check_outputs(bundle).agreeing == check_outputs(bundle).n
    data = write_frames(bundle.parent / "again.npz", frame_model())
    assert not verify_bundle(bundle, data=data, images=40).failures()


def test_an_image_is_no_frames(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DeployError, match=r"a.png: .*expected event frames"):
        list(Classifier(bundle).classify([tmp_path / "a.png"]))
