"""Anytime inference: stages of fewer timesteps before the whole model, in the native engine's file.

Each stage is the shipped model at another T, with norms that are re-estimated for it and the same
integer weights, so that the file stores these once. Which stages are worth it, and how sure each
must be, is decided on the search images (`ladder`). A stage begins anew: the engine keeps the
membranes of a neuron in registers, for all timesteps at once, and so has none to resume from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.artifact.native_export import EarlyModel
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.ladder import Ladder, StageResult, choose_ladder
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.timesteps import RescaledLayer, find_rescaling, rescaled

__all__ = ["Stage", "choose_stages", "make_stages", "stage_results"]

_CALIBRATION = 128
_BATCH = 32
_ROUNDS, _TIMED_IMAGES = 8, 16
_SECONDS = 30.0


@dataclass(frozen=True)
class Stage:
    """A quantized model at fewer timesteps, to run before the whole model.

    Args:
        model: what it computes, in torch.
        layers: what sets its layers apart from those of the whole model, by name.
    """

    model: SViT
    layers: dict[str, RescaledLayer]

    def early(self, margin: float) -> EarlyModel:
        """The stage as it is exported, with a margin."""
        return EarlyModel(self.model, margin)


def make_stages(
    model: SViT, quantized: SViT, images: ImageList, progress: Progress = SILENT
) -> tuple[Stage, ...]:
    """Every stage that may be worth it: of 1, 2 and 3 timesteps, and the powers of two beyond.

    Args:
        model: the float32 model that is shipped, at its number of timesteps.
        quantized: the same, quantized.
        images: to re-estimate norms on.
        progress: gets each stage.

    Raises:
        ModelError: its number of timesteps cannot be chosen.
    """
    count = min(len(images), model.batch_of(_CALIBRATION))
    samples = torch.from_numpy(images.inputs(0, count))
    steps = [t for t in range(1, model.timesteps) if t == 3 or t & (t - 1) == 0]
    progress.stage("stages of fewer timesteps", len(steps))
    stages = []
    for timesteps in steps:
        fewer = with_timesteps(model, timesteps, samples)
        layers = find_rescaling(quantized, model, fewer)
        stages.append(Stage(rescaled(quantized, fewer, layers), layers))
        progress.step(f"T = {timesteps}")
    return tuple(stages)


def choose_stages(context: BuildContext, path: Path, max_drop: float) -> Ladder:
    """The stages of a file that are worth it, by its results on the search images.

    Args:
        context: of the build.
        path: a `model.svit` of all stages.
        max_drop: points of top-1 that may be lost against the whole model.
    """
    progress, images = context.progress, context.images.search
    progress.stage("accuracy of stages", -(-len(images) // _BATCH))
    results = stage_results(path, images, step=progress.step)
    ladder = choose_ladder(results, max_drop)
    if len(ladder.stages) == 1:
        progress.message(
            f"no run stops early: none that loses up to {max_drop:g} points saves time"
        )
    return ladder


def stage_results(
    path: Path, images: ImageList, *, step: Callable[[], object] = lambda: None
) -> list[StageResult]:
    """Run each stage of a file alone on images, and time it on one thread.

    Args:
        path: a `model.svit`.
        images: labelled images.
        step: called for each batch.
    """
    count = len(NativeModel(path).stages)
    models = [NativeModel(path, stage=number) for number in range(count)]
    images = images.for_model(models[0].sample_dtype)
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in models]
    for start in range(0, len(images), _BATCH):
        batch = images.inputs(start, min(start + _BATCH, len(images)))
        for found, model in zip(logits, models, strict=True):
            found.append(model.logits(batch))
        step()
    whole = [np.concatenate(found) for found in logits]
    times = _times(models, images.inputs(0, min(_TIMED_IMAGES, len(images))))
    return [
        StageResult(
            timesteps=model.stages[number].timesteps,
            milliseconds=times[number],
            margins=margins_of(whole[number]),
            hits=whole[number].argmax(axis=1) == images.labels,
        )
        for number, model in enumerate(models)
    ]


def _times(models: Sequence[NativeModel], samples: npt.NDArray[Any]) -> list[float]:
    """Mean time of a run of each model, ms, over samples; of each the least of several runs.

    What else runs on this machine makes runs longer, never shorter, and must not decide.
    """

    def call(model: NativeModel) -> Callable[[], object]:
        turns = itertools.cycle([samples[i : i + 1] for i in range(len(samples))])
        return lambda: model.logits(next(turns))

    calls = {str(number): call(model) for number, model in enumerate(models)}
    rounds = _ROUNDS * len(samples)
    found = measure_latency(calls, runs=rounds, warmup=len(samples), seconds=_SECONDS)
    least = []
    for number in range(len(models)):
        times = found[str(number)].milliseconds
        least.append([min(times[i :: len(samples)]) for i in range(min(len(samples), len(times)))])
    return [float(np.mean(each)) for each in least]
