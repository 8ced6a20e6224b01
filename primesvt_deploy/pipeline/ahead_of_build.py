"""Stages that a build has before it, and their seconds; those of its search are in `ahead`."""

from __future__ import annotations

from primesvt_deploy.pipeline.ahead import (
    calibration_ahead,
    dense_ahead,
    dense_known,
    pruning_ahead,
    reading_ahead,
    search_reading_ahead,
)
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pipeline.cost_stage import ExpectedStage, expected_stage
from primesvt_deploy.settings import Precision

__all__ = ["after_whole", "build_ahead"]

_ROUNDING_S, _LATENCY_S, _TIMING_S, _CHOOSING_S, _REPORT_S = 3.0, 60.0, 7.0, 1.0, 3.0
"""Seconds of stages that take about as long for every model."""
_REPORTED_IMAGES = 500
"""Images behind what a report shows of two models."""
_TRAINING = 6.0
"""Seconds of a training sample, by those of a classified one: forward, backward, the teacher."""


def build_ahead(
    context: BuildContext, *, from_precision: int = 0, pace: Pace | None = None
) -> list[ExpectedStage]:
    """All stages of a build after the export of the dense model.

    Args:
        context: of the build.
        from_precision: number of the first of its precisions that is still to be made.
        pace: of this machine, with that of artifacts; default: the search's.
    """
    settings, pace = context.settings, pace or _pace(context)
    stages: list[ExpectedStage] = []
    for precision in settings.precisions[from_precision:]:
        stages += _shipping(context, precision, pace)
        if _leaves(context, precision) > 0.0:
            stages += _pruned(context, precision, pace)
        elif not from_precision and context.search.model.recorded_accuracy is not None:
            stages += [
                *search_reading_ahead(context.search),
                *calibration_ahead(context.search),
                *dense_ahead(context.search),
            ]
    return [*stages, *_tail(context, pace)]


def after_whole(
    context: BuildContext, precision: Precision, *, prunes: bool, artifact_s: float
) -> list[ExpectedStage]:
    """All stages of a build once the unpruned model of a precision is measured.

    Args:
        context: of the build.
        precision: the one that is being made.
        prunes: whether it has to be pruned.
        artifact_s: seconds of an image in ONNX Runtime.
    """
    number = context.settings.precisions.index(precision)
    pace = _pace(context).with_artifact(artifact_s)
    own = _pruned(context, precision, pace) if prunes else []
    return [*own, *build_ahead(context, from_precision=number + 1, pace=pace)]


def _pruned(context: BuildContext, precision: Precision, pace: Pace) -> list[ExpectedStage]:
    """The stages from the search on to a pruned model in a precision."""
    finetune = context.settings.finetune
    search = pruning_ahead(context.search, _leaves(context, precision))
    if context.from_ledger:
        names = ("calibration", "recovery and cut")
        search = [stage for stage in search if stage.name in names]
        chosen = expected_stage(pace, "plan from the frontier", 0.0, fixed_s=_CHOOSING_S)
        search = [chosen, *search]
    stages = [*search]
    if finetune is not None:
        train = len(context.images.data.train)
        samples = finetune.epochs * min(train, finetune.images or train)
        stages.append(expected_stage(pace, "fine-tuning", _TRAINING * samples * pace.image_s))
    return [*stages, *_shipping(context, precision, pace, pruned=True)]


def _pace(context: BuildContext) -> Pace:
    """The pace of a build; without that of recovery, where nothing will be recovered."""
    search = context.search
    prunes = any(_leaves(context, each) > 0.0 for each in context.settings.precisions)
    recovers = prunes or search.model.recorded_accuracy is not None
    return search.pace if recovers else search.forward_pace


def _leaves(context: BuildContext, precision: Precision) -> float:
    """Share of the bytes of a precision that have to leave, about; none where it is below 0."""
    dense = 4 * sum(each.numel() for each in context.model.module.parameters())
    size = dense * precision.bits / 32
    return 1.0 - context.settings.budget_bytes(dense) / size


def _shipping(
    context: BuildContext, precision: Precision, pace: Pace, *, pruned: bool = False
) -> list[ExpectedStage]:
    """Quantization, export and, where that is asked for, accuracy of a model as it is shipped."""
    settings = context.settings
    unchanged = precision is Precision.FP32 and settings.ship_timesteps is None
    exporting = pace.exporting_s
    stages: list[ExpectedStage] = []
    if precision is not Precision.FP32:
        seconds = _ROUNDING_S * (10 if precision is Precision.INT4 else 1)
        name = f"rounding to {precision.bits} bits"
        stages.append(expected_stage(pace, name, 0.0, fixed_s=seconds, guessed=True))
    names = [f"export, {precision.value}"] if pruned or not unchanged else []
    if settings.anytime is not None:
        names += ["stages of fewer timesteps", "export of stages"]
    if settings.runtime.has_native and not (unchanged and not pruned):
        names.append(f"export for the native runtime, {precision.value}")
    stages += [expected_stage(pace, name, exporting) for name in names]
    demanded = settings.search.max_drop is not None or settings.precision is None
    if demanded and (not unchanged or (pruned and settings.finetune is not None)):
        seconds = len(context.images.search) * pace.in_artifact_s
        if dense_known(context.search) < len(context.images.search) and not pruned:
            stages.append(expected_stage(pace, "search accuracy, dense", seconds))
        stages.append(expected_stage(pace, f"search accuracy, {precision.value}", seconds))
    return stages


def _tail(context: BuildContext, pace: Pace) -> list[ExpectedStage]:
    """Verification, held-out accuracy, latency, and what the report shows beside them."""
    settings, images = context.settings, context.images
    held_out = len(context.held_out) * pace.in_artifact_s
    stages: list[ExpectedStage] = []
    if settings.anytime is not None:
        seconds = 2.0 * len(images.search) * pace.in_artifact_s
        stages.append(
            expected_stage(pace, "accuracy of stages", seconds, fixed_s=_LATENCY_S, guessed=True)
        )
    verified = min(settings.verify_images, len(images.verification)) * pace.verifying_s
    integers = any(precision is not Precision.FP32 for precision in settings.precisions)
    for _ in range(settings.runtime.has_onnx + settings.runtime.has_native):
        stages.append(expected_stage(pace, "verification", verified))
        if integers:  # it comes only where spikes flip
            name = "verification behind float layers"
            stages.append(expected_stage(pace, name, verified, guessed=True))
    stages += [*reading_ahead(pace, context.held_out), _held_out_accuracy(context, pace)]
    if settings.anytime is not None:
        stages.append(
            expected_stage(pace, "held-out accuracy of stages", 1.5 * held_out, guessed=True)
        )
    reported = _REPORTED_IMAGES * pace.image_s
    return [
        *stages,
        expected_stage(pace, "latency", 0.0, fixed_s=_TIMING_S),
        expected_stage(pace, "content of the report", reported, fixed_s=_REPORT_S, guessed=True),
    ]


def _held_out_accuracy(context: BuildContext, pace: Pace) -> ExpectedStage:
    """The stage in which dense and shipped model are compared: half of what leaves spares work."""
    leaves = min(_leaves(context, precision) for precision in context.settings.precisions)
    work = 2.0 - 0.5 * max(0.0, leaves)
    seconds = work * len(context.held_out) * pace.in_artifact_s
    return expected_stage(pace, "held-out accuracy", seconds, guessed=True)
