"""Anytime inference: stages of fewer timesteps before the whole model, in the shipped file.

Each stage is the shipped model at another T, with norms that are re-estimated for it and the same
integer weights, so that the file stores these once. Which stages are worth it, and how sure each
must be, is decided on the search images (`ladder`), once for both runtimes: their spikes are the
same. A stage begins anew: the native engine keeps the membranes of a neuron in registers, for all
timesteps at once, and so has none to resume from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.artifact.native_export import EarlyModel
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.artifact.onnx_stages import join_stages
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.edge.runtime.stages import Stage as FinalFrom
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.lowering.passes import TracedNetwork, trace_network
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.ladder import Ladder, StageResult, choose_ladder
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.timesteps import RescaledLayer, find_rescaling, rescaled
from primesvt_deploy.settings import BuildSettings

__all__ = [
    "Stage",
    "StageModel",
    "choose_stages",
    "export_stages",
    "join_early",
    "make_stages",
    "native_stages",
    "stage_results",
]

StageModel = NativeModel | OnnxModel
"""A stage to be run alone."""

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
        traced: its network with any batch.
        exported: the stage alone in ONNX; None: no ONNX file is shipped.
    """

    model: SViT
    layers: dict[str, RescaledLayer]
    traced: TracedNetwork
    exported: Artifact | None = None

    def early(self, margin: float) -> EarlyModel:
        """The stage as it is exported, with a margin."""
        return EarlyModel(self.model, margin, self.traced)


def make_stages(
    model: SViT,
    quantized: SViT,
    images: ImageList,
    *,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> tuple[Stage, ...]:
    """Every stage that may be worth it: of 1, 2 and 3 timesteps, and the powers of two beyond.

    Args:
        model: the float32 model that is shipped, at its number of timesteps.
        quantized: the same, quantized.
        images: to re-estimate norms on.
        device: that this is done on.
        progress: gets each stage.

    Raises:
        ModelError: its number of timesteps cannot be chosen.
    """
    count = min(len(images), model.batch_of(_CALIBRATION))
    samples = torch.from_numpy(images.inputs(0, count))
    steps = [t for t in range(1, model.timesteps) if t == 3 or t & (t - 1) == 0]
    progress.stage("stages of fewer timesteps", len(steps), "stages")
    stages = []
    for timesteps in steps:
        fewer = with_timesteps(model, timesteps, samples, device=device)
        layers = find_rescaling(quantized, model, fewer)
        stage = rescaled(quantized, fewer, layers)
        traced = trace_network(stage.module.float(), stage.config, exact=True)
        stages.append(Stage(stage, layers, traced))
        progress.step(f"T = {timesteps}")
    return tuple(stages)


def export_stages(
    stages: Sequence[Stage], whole: Artifact, settings: BuildSettings, progress: Progress = SILENT
) -> tuple[Stage, ...]:
    """The stages with an ONNX file each, beside that of the whole model.

    Args:
        stages: from `make_stages`.
        whole: the exported whole model.
        settings: of the export.
        progress: gets each stage.
    """
    progress.stage("export of stages", len(stages), "stages")
    exported = []
    for stage in stages:
        artifact = export_onnx(
            stage.model,
            whole.path.with_suffix(f".T{stage.model.timesteps}.onnx"),
            batch=settings.batch,
            precision=whole.precision,
            standard=settings.standard_ops,
            traced=stage.traced if settings.batch is None else None,
        )
        exported.append(replace(stage, exported=artifact))
        progress.step(f"T = {stage.model.timesteps}")
    return tuple(exported)


def join_early(
    early: Sequence[tuple[Stage, float]], whole: Artifact, timesteps: int, path: Path
) -> Artifact:
    """Write the ONNX file of a model that stops early.

    Args:
        early: exported stages, each with the margin from which on it is final.
        whole: the exported whole model.
        timesteps: of the whole model.
        path: the file.
    """
    artifacts = [stage.exported for stage, _ in early if stage.exported is not None]
    margins = [FinalFrom(stage.model.timesteps, margin) for stage, margin in early]
    return join_stages([*artifacts, whole], [*margins, FinalFrom(timesteps, 0.0)], path)


def choose_stages(
    context: BuildContext, models: Mapping[int, StageModel], max_drop: float
) -> Ladder:
    """The stages that are worth it, by their results on the search images.

    Args:
        context: of the build.
        models: each stage alone, by its timesteps, the whole model last.
        max_drop: points of top-1 that may be lost against the whole model.
    """
    progress, images = context.progress, context.images.search
    progress.stage("accuracy of stages", 2, "")
    results = stage_results(models, images, progress)
    ladder = choose_ladder(results, max_drop)
    if len(ladder.stages) == 1:
        progress.message(
            f"no run stops early: none that loses up to {max_drop:g} points saves time"
        )
    return ladder


def native_stages(path: Path) -> dict[int, StageModel]:
    """Each stage of a `model.svit` alone, by its timesteps, the whole model last."""
    stages = NativeModel(path).stages
    return {stage.timesteps: NativeModel(path, stage=number) for number, stage in enumerate(stages)}


def stage_results(
    models: Mapping[int, StageModel], images: ImageList, progress: Progress = SILENT
) -> list[StageResult]:
    """Run each stage alone on images, and time it.

    Args:
        models: the stages by their timesteps, the whole model last.
        images: labelled images.
        progress: gets two steps, classifying and timing.
    """
    images = images.for_model(next(iter(models.values())).sample_dtype)
    logits: dict[int, list[npt.NDArray[np.float32]]] = {timesteps: [] for timesteps in models}
    for start in range(0, len(images), _BATCH):
        stop = min(start + _BATCH, len(images))
        batch = images.inputs(start, stop)
        for timesteps, model in models.items():
            logits[timesteps].append(model.logits(batch))
        progress.advance(stop, len(images))
    progress.step()
    whole = {timesteps: np.concatenate(found) for timesteps, found in logits.items()}
    times = _times(models, images.inputs(0, min(_TIMED_IMAGES, len(images))), progress)
    progress.step()
    return [
        StageResult(
            timesteps=timesteps,
            milliseconds=times[timesteps],
            margins=margins_of(found),
            hits=found.argmax(axis=1) == images.labels,
        )
        for timesteps, found in whole.items()
    ]


def _times(
    models: Mapping[int, StageModel], samples: npt.NDArray[Any], progress: Progress
) -> dict[int, float]:
    """Mean time of a run of each model, ms, over samples; of each the least of several runs.

    What else runs on this machine makes runs longer, never shorter, and must not decide.
    """

    def call(model: StageModel) -> Callable[[], object]:
        turns = itertools.cycle([samples[i : i + 1] for i in range(len(samples))])
        return lambda: model.logits(next(turns))

    calls = {str(timesteps): call(model) for timesteps, model in models.items()}
    rounds = _ROUNDS * len(samples)
    found = measure_latency(
        calls, runs=rounds, warmup=len(samples), seconds=_SECONDS, progress=progress
    )
    means = {}
    for timesteps in models:
        times = found[str(timesteps)].milliseconds
        least = [min(times[i :: len(samples)]) for i in range(min(len(samples), len(times)))]
        means[timesteps] = float(np.mean(least))
    return means
