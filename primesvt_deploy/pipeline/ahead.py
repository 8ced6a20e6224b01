"""Stages that a build, a frontier or an analysis has before it, and how much work each is.

Work is counted in images that the dense model classifies in torch; the factors are rough, and were
read off builds of the reference model. From the first measured stage on, the time left follows from
what an image takes here (`progress.forecast`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.progress import PlannedStage
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.greedy import STAGE_SHARE
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, HEAD_IMAGES, NORM_IMAGES
from primesvt_deploy.pruning.search.judge import DENSE_IMAGES
from primesvt_deploy.settings import HEAD, Precision

__all__ = [
    "after_whole",
    "analysis_ahead",
    "build_ahead",
    "frontier_ahead",
    "plan_ahead",
    "pruning_ahead",
]

_EXPORT_S = 2.0
_ROUNDING_S = 3.0
_LATENCY_S = 60.0
_TIMING_S = 10.0
_CHOOSING_S = 1.0
_FIRING_IMAGES = 256
_OF_A_POINT = 0.1
"""Share of a candidate's images that count: prefixes are cached, hopeless ones given up."""
_RECOVERING = NORM_IMAGES + 10.0
"""Images that the recovery of a candidate stands for, however many it is judged on."""
_OF_LAYERS = 0.3
"""Candidates of the prioritized policy for each layer: most budgets are met before the last."""
_ON_A_PATH = 3
_REPORTED = 500.0
"""Firing rates and energy of two models on some images."""
_GREEDY_ROUNDS = 4
"""Measurements of sensitivity, where it is not known how much has to leave."""
_TRAINING = 6.0
"""Images that a training sample stands for: forward, backward, and the teacher's forward."""
_COMPARING = 2.0
"""Images that a verified one stands for: it runs in torch and in the artifact, spikes compared."""
_CALIBRATING = 6.0
_IN_ARTIFACT = 0.6


def plan_ahead(context: SearchContext, rounds: int = _GREEDY_ROUNDS) -> list[PlannedStage]:
    """The stages that lead to a plan, the dense model's accuracy first.

    Args:
        context: of the search.
        rounds: how often the greedy policy measures sensitivity.
    """
    settings, groups = context.settings, len(context.prunable.groups)
    if settings.max_drop is None and settings.policy == "prioritized":  # sizes decide
        return [] if context.images is None else _calibration(context)
    images = len(context.image_sets().search)
    point = _candidate(context, settings.robustness_images)
    stages = [*_calibration(context), *_dense(context)]
    if settings.policy == "prioritized":
        points = _OF_LAYERS * groups * len(settings.rates)
        work = points * point + _candidate(context, images) * (1 + _OF_LAYERS * groups)
    elif settings.policy == "greedy":
        stages.append(PlannedStage("channel importance", seconds=1.0 * groups))
        points = rounds * (1 + 3 * groups)
        point = _candidate(context, settings.robustness_images // 2)
        stages.append(PlannedStage("sensitivity", points * point, guessed=True))
        work = _ON_A_PATH * (_RECOVERING + images)
    else:
        work = _ON_A_PATH * (_RECOVERING + images)
    return [*stages, PlannedStage(f"{settings.policy} policy", work, guessed=True)]


def pruning_ahead(context: SearchContext, rounds: int = _GREEDY_ROUNDS) -> list[PlannedStage]:
    """The stages from the dense model to a cut and recovered one.

    Args:
        context: of the search.
        rounds: see `plan_ahead`.
    """
    stages = [
        *plan_ahead(context, rounds),
        PlannedStage("recovery and cut", float(NORM_IMAGES), 1.0, guessed=True),
    ]
    if context.images is not None and HEAD in context.settings.recover:
        images = float(len(context.images.search))
        stages.append(PlannedStage("refitting the classifier", 2.0 * HEAD_IMAGES, guessed=True))
        stages.append(PlannedStage("with its classifier refitted", images))
    return stages


def analysis_ahead(context: SearchContext) -> list[PlannedStage]:
    """The stages of an analysis.

    Args:
        context: of its search.
    """
    settings, images = context.settings, len(context.image_sets().search)
    points = len(context.prunable.groups) * len(settings.rates)
    work = points * _candidate(context, settings.robustness_images)
    sample = float(min(_FIRING_IMAGES, images))
    return [
        *_calibration(context),
        *_dense(context),
        PlannedStage("robustness", work, guessed=True),
        PlannedStage("firing rates", 2.0 * sample),
        PlannedStage("energy estimate", 2.0 * sample),
    ]


def frontier_ahead(
    context: SearchContext,
    held_out: int,
    savings: Sequence[float],
    timesteps: Sequence[int],
    *,
    begun: bool = False,
) -> list[PlannedStage]:
    """The stages of a frontier.

    Args:
        context: of its search.
        held_out: images that each point is reported on.
        savings: percents of the points that are still to come, in order.
        timesteps: T that each point is reported at besides the model's own.
        begun: whether a point was made already, and what all points rest on is measured.
    """
    stages: list[PlannedStage] = []
    for number, saving in enumerate(savings):
        pruning = pruning_ahead(context)
        known = ("dense accuracy", "calibration") if number or begun else ()
        stages += [stage for stage in pruning if stage.name not in known]
        stages += _reported(context, f"held-out, {saving:g}% saved", held_out, timesteps)
        if not known:
            stages.insert(len(stages) - len(timesteps) - bool(timesteps), _dense_held_out(held_out))
    if timesteps:
        stages += _reported(context, "held-out, dense", held_out, timesteps)[1:]
    return stages


def build_ahead(context: BuildContext, *, from_precision: int = 0) -> list[PlannedStage]:
    """All stages of a build after the export of the dense model.

    Args:
        context: of the build.
        from_precision: number of the first of its precisions that is still to be made.
    """
    settings = context.settings
    stages: list[PlannedStage] = []
    for precision in settings.precisions[from_precision:]:
        stages += [*_shipping(context, precision), *_pruned(context, precision)]
    return [*stages, *_tail(context)]


def after_whole(context: BuildContext, precision: Precision, *, prunes: bool) -> list[PlannedStage]:
    """All stages of a build once the unpruned model of a precision is measured.

    Args:
        context: of the build.
        precision: the one that is being made.
        prunes: whether it has to be pruned.
    """
    number = context.settings.precisions.index(precision)
    own = _pruned(context, precision) if prunes else []
    return [*own, *build_ahead(context, from_precision=number + 1)]


def _pruned(context: BuildContext, precision: Precision) -> list[PlannedStage]:
    """The stages from the search on to a pruned model in a precision."""
    finetune = context.settings.finetune
    search = pruning_ahead(context.search, _greedy_rounds(context, precision))
    if context.from_ledger:
        names = ("calibration", "recovery and cut")
        search = [stage for stage in search if stage.name in names]
        search = [PlannedStage("plan from the frontier", seconds=_CHOOSING_S), *search]
    stages = [*search]
    if finetune is not None:
        train = len(context.images.data.train)
        samples = finetune.epochs * min(train, finetune.images or train)
        stages.append(PlannedStage("fine-tuning", _TRAINING * samples))
    return [*stages, *_shipping(context, precision, pruned=True)]


def _greedy_rounds(context: BuildContext, precision: Precision) -> int:
    """How often the greedy policy measures sensitivity until the budget is met."""
    dense = 4 * sum(each.numel() for each in context.model.module.parameters())
    size = dense * precision.bits / 32
    leaves = 1.0 - context.settings.budget_bytes(dense) / size
    return max(1, math.ceil(leaves / STAGE_SHARE))


def _shipping(
    context: BuildContext, precision: Precision, *, pruned: bool = False
) -> list[PlannedStage]:
    """Quantization, export and, where that is asked for, accuracy of a model as it is shipped."""
    settings = context.settings
    unchanged = precision is Precision.FP32 and settings.ship_timesteps is None
    stages: list[PlannedStage] = []
    if precision is not Precision.FP32:
        seconds = _ROUNDING_S * (10 if precision is Precision.INT4 else 1)
        stages.append(PlannedStage(f"rounding to {precision.bits} bits", seconds=seconds))
    if pruned or not unchanged:
        stages.append(PlannedStage(f"export, {precision.value}", seconds=_EXPORT_S))
    if settings.anytime is not None:
        stages.append(PlannedStage("stages of fewer timesteps", seconds=2 * _EXPORT_S))
        stages.append(PlannedStage("export of stages", seconds=2 * _EXPORT_S))
    if settings.runtime.has_native and not (unchanged and not pruned):
        name = f"export for the native runtime, {precision.value}"
        stages.append(PlannedStage(name, seconds=_EXPORT_S))
    demanded = settings.search.max_drop is not None or settings.precision is None
    if demanded and (not unchanged or (pruned and settings.finetune is not None)):
        images = _IN_ARTIFACT * len(context.images.search)
        if _dense(context.search) and not pruned:
            stages.append(PlannedStage("search accuracy, dense", images))
        stages.append(PlannedStage(f"search accuracy, {precision.value}", images))
    return stages


def _tail(context: BuildContext) -> list[PlannedStage]:
    """Verification, held-out accuracy, latency, and what the report shows beside them."""
    settings, images = context.settings, context.images
    held_out = len(images.held_out)
    runtimes = settings.runtime.has_onnx + settings.runtime.has_native
    stages: list[PlannedStage] = []
    if settings.anytime is not None:
        work = 2.0 * len(images.search)
        stages.append(PlannedStage("accuracy of stages", work, _LATENCY_S, guessed=True))
    verified = float(min(settings.verify_images, len(images.verification)))
    integers = any(precision is not Precision.FP32 for precision in settings.precisions)
    for _ in range(runtimes):
        stages.append(PlannedStage("verification", _COMPARING * verified))
        if integers:  # it comes only where spikes flip
            work = _COMPARING * verified
            stages.append(PlannedStage("verification behind float layers", work, guessed=True))
    stages.append(PlannedStage("held-out accuracy", 2.0 * _IN_ARTIFACT * held_out))
    if settings.anytime is not None:
        stages.append(PlannedStage("held-out accuracy of stages", 1.5 * held_out, guessed=True))
    return [
        *stages,
        PlannedStage("latency", seconds=_TIMING_S),
        PlannedStage("content of the report", _REPORTED, 5.0, guessed=True),
    ]


def _dense(context: SearchContext) -> list[PlannedStage]:
    images = len(context.image_sets().search)
    if len(context.ledger.hits(Plan().digest, images)):
        return []
    return [PlannedStage("dense accuracy", float(min(DENSE_IMAGES, images)))]


def _calibration(context: SearchContext) -> list[PlannedStage]:
    if not set(context.settings.recover) & {"bias", "refit", "free"}:
        return []
    images = min(CALIBRATION_IMAGES, len(context.image_sets().calibration))
    return [PlannedStage("calibration", _CALIBRATING * images, guessed=True)]


def _candidate(context: SearchContext, images: int) -> float:
    """Work of judging a candidate on so many images at most."""
    count = min(images, len(context.image_sets().search))
    return _OF_A_POINT * count + (_RECOVERING if context.settings.recover else 0.0)


def _dense_held_out(held_out: int) -> PlannedStage:
    return PlannedStage("held-out, dense", float(held_out))


def _reported(
    context: SearchContext, name: str, held_out: int, timesteps: Sequence[int]
) -> list[PlannedStage]:
    """Held-out accuracy of a model at its own T and at others, and its latency there."""
    stages = [PlannedStage(name, float(held_out))]
    for steps in timesteps:
        work = held_out * steps / context.model.timesteps
        stages.append(PlannedStage(f"{name}, T = {steps}", work, _EXPORT_S))
    if timesteps:
        stages.append(PlannedStage(f"latency, {name.partition(', ')[2]}", seconds=10.0))
    return stages
