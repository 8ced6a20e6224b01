"""Bundles for either runtime, put together from files without a build."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sealed_bundles import seal
from small_models import SHALLOW, make_model
from staged_models import export_stages, middle_margin, stage_models

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.artifact.onnx_stages import join_stages
from primesvt_deploy.edge.runtime.profiles import session_json
from primesvt_deploy.edge.runtime.stages import Stage
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

_FILES = {"onnx": "model.onnx", "native": "model.svit"}
_STEPS: Mapping[str, Any] = {
    "height": 16,
    "width": 16,
    "resize": 16,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def pixels(count: int) -> npt.NDArray[np.uint8]:
    """Random images of the size that small models take."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def pretended_bundle(directory: Path, runtimes: tuple[str, ...] = ("onnx", "native")) -> Path:
    """A bundle whose model files are no models; its digests are right."""
    return _write(directory, {name: b"no model" for name in runtimes})


def small_bundle(
    directory: Path,
    runtimes: tuple[str, ...] = ("onnx", "native"),
    *,
    takes_pixels: bool = False,
    stops_early: bool = False,
) -> Path:
    """A bundle of a small int8 model, which is exported once in a process.

    Args:
        directory: is made.
        runtimes: those that it is for.
        takes_pixels: the model has an integer first layer.
        stops_early: it has three stages: one step is enough for half of the images, two for none.
    """
    models = _of_stages() if stops_early else _exported(takes_pixels)
    steps = {**_STEPS, "pixels": True} if takes_pixels else _STEPS
    return _write(directory, {name: models[name] for name in runtimes}, steps)


@cache
def _exported(takes_pixels: bool) -> Mapping[str, bytes]:
    model = quantize(make_model(SHALLOW), 8, None, integer_input=takes_pixels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(model, folder / _FILES["onnx"], precision=Precision.INT8)
        export_native(model, folder / _FILES["native"], precision=Precision.INT8)
        return {name: (folder / file).read_bytes() for name, file in _FILES.items()}


@cache
def _of_stages() -> Mapping[str, bytes]:
    margin = middle_margin(pixels(6))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = [
            export_onnx(model, folder / f"{model.timesteps}.onnx", precision=Precision.INT8)
            for model in stage_models()
        ]
        stages = [Stage(1, margin), Stage(2, np.inf), Stage(3, 0.0)]
        join_stages(alone, stages, folder / _FILES["onnx"])
        export_stages(folder / _FILES["native"], margin=margin)
        return {name: (folder / file).read_bytes() for name, file in _FILES.items()}


def _write(directory: Path, models: Mapping[str, bytes], steps: Mapping[str, Any] = _STEPS) -> Path:
    directory.mkdir()
    for name, content in models.items():
        (directory / _FILES[name]).write_bytes(content)
    if "onnx" in models:
        (directory / "session.json").write_text(json.dumps(session_json()))
    images = pixels(6)
    np.savez(directory / "check.npz", images=images, logits=np.zeros((6, 5), np.float32))
    model = {"name": "tiny", "labels": list("abcde"), "preprocessing": dict(steps)}
    return seal(directory, model=model, runtimes=list(models))
