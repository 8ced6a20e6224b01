"""A model as it is shipped: at its number of timesteps, quantized, exported, counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from primesvt_deploy.artifact.native_export import NativeArtifact, export_native
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.lowering.passes import TracedNetwork, trace_network
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.anytime import Stage, export_stages, join_early, make_stages
from primesvt_deploy.pipeline.budget import counted_bytes, file_bytes
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.dense import DenseModel
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

__all__ = ["Shipped", "ship"]

_CALIBRATION = 128
_FEWEST_CALIBRATION = 32


@dataclass(frozen=True)
class Shipped:
    """A model as it is shipped.

    Args:
        model: float32, at its number of timesteps.
        quantized: what the artifact computes, in torch; `model` itself for float32.
        artifact: the exported ONNX file, without stages.
        native: the file of the native engine, with all stages; None: that was not requested.
        stages: that may run before the whole model; none unless they were requested.
        bytes: of what the budget counts.
        file_bytes: of the model file; of the larger one, where two are shipped.
    """

    model: SViT
    quantized: SViT
    artifact: Artifact
    native: NativeArtifact | None
    stages: tuple[Stage, ...]
    bytes: int
    file_bytes: int


def ship(
    context: BuildContext, dense: DenseModel, model: SViT, precision: Precision, stem: Path
) -> Shipped:
    """Set a model to the shipped number of timesteps, quantize it, export it and count its bytes.

    Args:
        context: of the build.
        dense: the dense float32 model, which is not exported again.
        model: the dense model or a pruned one.
        precision: of the weights.
        stem: path of the file without its precision and suffix.
    """
    settings, progress = context.settings, context.progress
    model = _at_timesteps(context, model)
    if precision is Precision.FP32 and model is context.model:
        return Shipped(model, model, dense.artifact, None, (), dense.bytes, dense.artifact.bytes)
    quantized = model
    if precision is not Precision.FP32:
        samples = _samples(context) if precision is Precision.INT4 else None
        quantized = quantize(
            model,
            precision.bits,
            samples,
            integer_input=settings.integer_input,
            device=context.device,
            progress=progress,
        )
    progress.stage(f"export, {precision.value}", 2, "")
    traced = trace_network(
        quantized.module.float(),
        quantized.config,
        batch=settings.batch,
        exact=precision is not Precision.FP32,
    )
    progress.step()
    artifact = export_onnx(
        quantized,
        stem.with_name(f"{stem.name}-{precision.value}.onnx"),
        batch=settings.batch,
        precision=precision,
        standard=settings.standard_ops,
        traced=traced,
    )
    progress.step(f"{millions(artifact.bytes)[0]} MB")
    stages: tuple[Stage, ...] = ()
    largest = artifact
    if settings.anytime is not None:
        stages = make_stages(
            model, quantized, context.images.calibration, device=context.device, progress=progress
        )
        if settings.runtime.has_onnx:
            stages = export_stages(stages, artifact, settings, progress)
            # All of them, until it is known which are worth it: no file gets larger than that.
            early = [(stage, math.inf) for stage in stages]
            path = artifact.path.with_suffix(".stages.onnx")
            largest = join_early(early, artifact, quantized.timesteps, path)
    native: NativeArtifact | None = None
    if settings.runtime.has_native:
        native = _native(context, quantized, stages, artifact, traced)
    counted = counted_bytes(settings, quantized, largest, native)
    files = file_bytes(settings, largest, native)
    return Shipped(model, quantized, artifact, native, stages, counted, files)


def _native(
    context: BuildContext,
    quantized: SViT,
    stages: tuple[Stage, ...],
    artifact: Artifact,
    traced: TracedNetwork,
) -> NativeArtifact:
    """The file of the native engine, beside the ONNX file, with all stages."""
    settings, progress = context.settings, context.progress
    progress.stage(f"export for the native runtime, {artifact.precision.value}", 1)
    native = export_native(
        quantized,
        artifact.path.with_suffix(".svit"),
        precision=artifact.precision,
        little_memory=settings.mcu,
        early=[stage.early(math.inf) for stage in stages],
        traced=traced if settings.batch in (None, 1) else None,
    )
    progress.step(f"{millions(native.bytes)[0]} MB")
    return native


def _at_timesteps(context: BuildContext, model: SViT) -> SViT:
    """The model at the number of timesteps that is to be shipped."""
    steps = context.settings.ship_timesteps
    if steps is None:
        return model
    images = context.images.calibration
    count = min(len(images), context.model.batch_of(_CALIBRATION))
    samples = torch.from_numpy(images.inputs(0, count))
    return with_timesteps(model, steps, samples, device=context.device)


def _samples(context: BuildContext) -> torch.Tensor:
    """Calibration samples of error-compensated rounding, as the quantized model takes them."""
    images = context.images.search
    if context.settings.integer_input:
        images = images.as_pixels()
    wanted = max(_FEWEST_CALIBRATION, context.model.batch_of(_CALIBRATION))
    return torch.from_numpy(images.inputs(0, min(wanted, len(images))))
