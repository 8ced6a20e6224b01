"""Compare an ONNX file that may stop early with its models, stage by stage, and where it stops."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from primesvt_deploy.artifact.onnx_stages import split_stages
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.verification.outcome import Verification
from primesvt_deploy.verification.verify import BATCH, verify_artifact

__all__ = ["verify_onnx_stages"]

_STOPS = 64
"""Images whose runs are followed from stage to stage."""
_ONE_BY_ONE = 16
"""Of these, images that are run alone, too, so that branches are left out."""


def verify_onnx_stages(
    models: Sequence[SViT],
    path: Path,
    images: ImageList,
    *,
    threads: int = 0,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> list[Verification]:
    """Compare every stage of the ONNX file at `path` with its model, and where runs of it stop.

    Each stage is taken out of the file and verified as a model of its own. Runs of the file must
    give, to the last bit, the logits of the first stage that is sure.

    Args:
        models: the model that each stage stands for, the whole one last; a file that does not stop
            early has only that one.
        path: the file.
        images: to compare on; a fixed batch leaves out those that do not fill one.
        threads: of ONNX Runtime; 0: its default.
        device: that the models run on.
        progress: gets each batch.

    Raises:
        VerificationError: no image to compare on, the file is of other models, or a run of it stops
            at another stage than the margins say.
    """
    joined = OnnxModel(path, threads=threads)
    number = max(len(joined.stages), 1)
    if number != len(models):
        raise VerificationError(
            f"{path} has {number} stages, expected {len(models)}: build it again"
        )
    verified = partial(verify_artifact, threads=threads, device=device, progress=progress)
    if number == 1:
        return [verified(models[0], path, images).require()]
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{number}.onnx" for number in range(number)]
        for file, stage in zip(files, split_stages(path), strict=True):
            onnx.save(stage, file)
        found = [verified(model, file, images) for model, file in zip(models, files, strict=True)]
        alone = [OnnxModel(file, threads=threads) for file in files]
    images = images.for_model(joined.sample_dtype)
    for size, most in ((joined.fixed_batch or BATCH, _STOPS), (1, _ONE_BY_ONE)):
        for start in range(0, min(len(images), most), size):
            _require_stops(
                joined, alone, images, range(start, min(start + size, len(images))), path
            )
    return [verification.require() for verification in found]


def _require_stops(
    joined: OnnxModel, alone: Sequence[OnnxModel], images: ImageList, batch: range, path: Path
) -> None:
    """Refuse a file that gives other logits of a batch than the first stage that is sure."""
    inputs = images.inputs(batch.start, batch.stop)
    left = np.ones(len(inputs), dtype=bool)
    expected, steps = alone[-1].logits(inputs), np.zeros(len(inputs), np.int32)
    for stage, model in zip(joined.stages, alone, strict=True):
        logits = model.logits(inputs)
        expected[left], steps[left] = logits[left], stage.timesteps
        left &= ~(margins_of(logits) >= np.float32(stage.margin))
    found, taken = joined.logits_and_timesteps(inputs)
    if not (np.array_equal(found, expected) and np.array_equal(taken, steps)):
        raise VerificationError(f"{path} stops at other stages than its margins say")
