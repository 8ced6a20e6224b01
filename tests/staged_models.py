"""A small model of stages, which stops early."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from small_models import SHALLOW, make_model

from primesvt_deploy.artifact.native_export import EarlyModel, NativeArtifact, export_native
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.quantization.timesteps import find_rescaling, rescaled
from primesvt_deploy.settings import Precision

__all__ = ["export_stages", "middle_margin", "normalised", "stage_models"]


@cache
def stage_models(bits: int = 8) -> tuple[SViT, ...]:
    """A quantized model at 1 to 3 timesteps, the whole one last."""
    model = make_model(SHALLOW)
    samples = torch.randn((16, *model.config.input_shape), generator=torch.Generator())
    quantized = quantize(model, bits, samples)
    fewer = [with_timesteps(model, t, samples) for t in range(1, model.timesteps)]
    early = [rescaled(quantized, each, find_rescaling(quantized, model, each)) for each in fewer]
    return (*early, quantized)


def export_stages(
    path: Path, *, margin: float, bits: int = 8, little_memory: bool = False
) -> NativeArtifact:
    """That model as a file of three stages, the second of which is never sure."""
    first, second, whole = stage_models(bits)
    return export_native(
        whole,
        path,
        precision=Precision.INT8 if bits == 8 else Precision.INT4,
        early=[EarlyModel(first, margin), EarlyModel(second, np.inf)],
        little_memory=little_memory,
    )


def normalised(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images `[N, H, W, C]` as a model takes them, the way the engine normalises pixels."""
    steps = stage_models()[0].preprocessing
    return np.asarray(steps.normalise(images))


@cache
def _first_alone(folder: Path) -> NativeModel:
    export_native(stage_models()[0], folder / "first.svit", precision=Precision.INT8)
    return NativeModel(folder / "first.svit")


def middle_margin(images: npt.NDArray[np.uint8]) -> float:
    """A margin that some of these images reach in the first stage, and some do not."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        margins = margins_of(_first_alone(Path(name)).logits_of_pixels(images))
    return float(np.sort(margins)[len(margins) // 2])
