"""Measure an export of the dense model: what it takes, and what its images take."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.cost_memory import GrowthOf
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.verification.onnx_stages import verify_onnx_stages

__all__ = ["artifact_seconds", "with_artifact_measured"]

_BATCH = 16
_TIMED_S = 0.8
"""Seconds of classifying from which those of an image are told."""
_VERIFIED = (1, 3)
"""Batches that are verified to see what an image takes, and what loading does."""


def artifact_seconds(
    artifact: Artifact, images: ImageList, threads: int, *, at_least_s: float = 0.0
) -> float:
    """Seconds of an image that an artifact classifies: of the median batch, the first left out.

    Args:
        artifact: of the dense model.
        images: to classify.
        threads: of ONNX Runtime; 0: its own choice.
        at_least_s: seconds of classifying; one batch is timed at least.
    """
    model = OnnxModel(artifact.path, threads=threads)
    images = images.for_model(model.sample_dtype)
    count = min(artifact.batch or _BATCH, len(images))
    batch = images.inputs(0, count)
    model.logits(batch)
    seconds: list[float] = []
    while not seconds or sum(seconds) < at_least_s:
        started = time.perf_counter()
        model.logits(batch)
        seconds.append(time.perf_counter() - started)
    return median(seconds) / count


def with_artifact_measured(pace: Pace, model: SViT, images: ImageList, threads: int) -> Pace:
    """The pace with what an artifact takes: its export, an image, a verified image, memory.

    Args:
        pace: so far.
        model: the dense SViT, which is exported to a file that does not stay.
        images: to classify and verify on.
        threads: of ONNX Runtime; 0: its own choice.

    Raises:
        ExportError: the model cannot be exported.
    """
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        artifact = export_onnx(model, Path(directory) / "dense.onnx")
        exporting = time.perf_counter() - started
        with GrowthOf(CPU) as growth:
            seconds = artifact_seconds(artifact, images, threads, at_least_s=_TIMED_S)
        size = artifact.path.stat().st_size
        verified = _verified_seconds(model, artifact, images, threads)
    return replace(
        pace,
        export_s=exporting,
        artifact_s=seconds,
        verified_s=verified,
        artifact_bytes=size,
        session_bytes=growth.bytes,
    )


def _verified_seconds(
    model: SViT, artifact: Artifact, images: ImageList, threads: int
) -> float | None:
    """Seconds of a verified image; None: there are too few images to tell."""
    few, more = (min(count * model.batch_of(_BATCH), len(images)) for count in _VERIFIED)
    seconds = []
    for count in (few, more):
        started = time.perf_counter()
        verify_onnx_stages([model], artifact.path, images.first(count), threads=threads)
        seconds.append(time.perf_counter() - started)
    return max(0.0, seconds[1] - seconds[0]) / (more - few) if more > few else None
