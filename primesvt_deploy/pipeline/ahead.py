"""Stages that a build, a frontier or an analysis has before it, and the seconds of each.

What policies will evaluate is in `pruning.policies.expected`; what that takes is reckoned from
times measured on this machine (`cost_pace`, `cost_candidates`). Progress gets the stages as a plan,
from which it tells the time left, and `--dry-run` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.pipeline.cost_candidates import CandidateCost
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pipeline.cost_stage import ExpectedStage, expected_stage
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.expected import (
    Outset,
    Work,
    expected_work,
    robustness_work,
    without_known,
)
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, HEAD_IMAGES
from primesvt_deploy.pruning.search.evaluator import CHUNK
from primesvt_deploy.pruning.search.judge import DENSE_IMAGES
from primesvt_deploy.pruning.search.state_cache import default_bytes
from primesvt_deploy.settings import HEAD, Precision

__all__ = [
    "after_whole",
    "analysis_ahead",
    "build_ahead",
    "candidate_cost",
    "frontier_ahead",
    "plan_ahead",
    "pruning_ahead",
]

_ROUNDING_S, _LATENCY_S, _TIMING_S, _CHOOSING_S, _REPORT_S, _CUT_S = 3.0, 60.0, 7.0, 1.0, 3.0, 0.5
"""Seconds of stages that take about as long for every model."""
_FIRING_IMAGES = 256
_WATCHED = 2.0
"""Seconds an image whose spikes are counted, by those of one that is only classified."""
_REPORTED_IMAGES = 500
"""Images behind what a report shows of two models."""
_TRAINING = 6.0
"""Seconds of a training sample, by those of a classified one: forward, backward, the teacher."""


def plan_ahead(
    context: SearchContext, leaves: float | None = None, *, ends_on_all: bool = False
) -> list[ExpectedStage]:
    """The stages that lead to a plan, the dense model's accuracy first.

    Args:
        context: of the search.
        leaves: share of the dense model's bytes that has to leave; None: not known.
        ends_on_all: whether the plan that is decided on is evaluated on all search images.
    """
    settings, pace = context.settings, context.pace
    if settings.max_drop is None and settings.policy == "prioritized":  # sizes decide
        return [] if context.images is None else _calibration(context)
    stages = [*_calibration(context), *_dense(context)]
    if settings.policy == "greedy" and pace.importance_s:
        seconds = sum(pace.importance_s.values())
        stages.append(expected_stage(pace, "channel importance", seconds, guessed=True))
    known = [(each.step, each.group) for each in context.ledger]
    works = without_known(expected_work(_outset(context, leaves, ends_on_all)), known)
    seen = Span.exactly(max(_dense_known(context), min(DENSE_IMAGES, _search_images(context))))
    for work in works:
        stages.append(_searching(context, work, seen))
        seen = seen.at_least(work.compared)
    return stages


def pruning_ahead(
    context: SearchContext, leaves: float | None = None, *, ends_on_all: bool = False
) -> list[ExpectedStage]:
    """The stages from the dense model to a cut and recovered one.

    Args:
        context: of the search.
        leaves: see `plan_ahead`.
        ends_on_all: see `plan_ahead`.
    """
    pace, cost = context.pace, candidate_cost(context)
    stages = [
        *plan_ahead(context, leaves, ends_on_all=ends_on_all),
        expected_stage(pace, "recovery and cut", cost.recovery(None), fixed_s=_CUT_S, guessed=True),
    ]
    if context.images is not None and HEAD in context.settings.recover:
        fitted = 2.0 * min(HEAD_IMAGES, len(context.images.calibration)) * pace.image_s
        judged = len(context.images.search) * pace.image_s
        stages.append(expected_stage(pace, "refitting the classifier", fitted, guessed=True))
        stages.append(expected_stage(pace, "with its classifier refitted", judged))
    return stages


def analysis_ahead(context: SearchContext) -> list[ExpectedStage]:
    """The stages of an analysis.

    Args:
        context: of its search.
    """
    sample = min(_FIRING_IMAGES, len(context.image_sets().search))
    watched = _WATCHED * sample * context.pace.image_s
    return [
        *_calibration(context),
        *_dense(context),
        _searching(
            context, robustness_work(_outset(context, None)), Span.exactly(_search_images(context))
        ),
        expected_stage(context.pace, "firing rates", watched),
        expected_stage(context.pace, "energy estimate", watched),
    ]


def frontier_ahead(
    context: SearchContext,
    held_out: int,
    savings: Sequence[float],
    timesteps: Sequence[int],
    *,
    begun: bool = False,
) -> list[ExpectedStage]:
    """The stages of a frontier.

    Args:
        context: of its search.
        held_out: images that each point is reported on.
        savings: percents of the points that are still to come, in order.
        timesteps: T that each point is reported at besides the model's own.
        begun: whether a point was made already, and what all points rest on is measured.
    """
    stages: list[ExpectedStage] = []
    before = 0.0
    for number, saving in enumerate(savings):
        # The greedy policy goes on from the point before.
        leaves = (saving - (before if context.settings.policy == "greedy" else 0.0)) / 100.0
        pruning, before = pruning_ahead(context, leaves, ends_on_all=True), saving
        once = ("dense accuracy", "calibration", "channel importance")
        known = once if number or begun else ()
        stages += [stage for stage in pruning if stage.name not in known]
        stages += _reported(context, f"held-out, {saving:g}% saved", held_out, timesteps)
        if not known:
            dense = expected_stage(context.pace, "held-out, dense", held_out * context.pace.image_s)
            stages.insert(len(stages) - len(timesteps) - bool(timesteps), dense)
    if timesteps:
        stages += _reported(context, "held-out, dense", held_out, timesteps)[1:]
    return stages


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
            stages += [*_calibration(context.search), *_dense(context.search)]
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


def candidate_cost(context: SearchContext) -> CandidateCost:
    """Seconds of candidates on the device and the workers of a search."""
    images = 0 if context.images is None else len(context.images.search)
    return CandidateCost(
        pace=context.pace,
        dense_images=images,
        cache_bytes=default_bytes(context.device),
        chunk=CHUNK,
        workers=context.compute.workers or 1,
    )


def _searching(context: SearchContext, work: Work, seen: Span) -> ExpectedStage:
    """A stage in which candidates are evaluated, and the dense model on more images if need be.

    Args:
        context: of the search.
        work: its candidates.
        seen: images that the dense model has been evaluated on before.
    """
    cost = candidate_cost(context)
    compared = work.compared.beyond(seen)
    ones = (compared.likely, compared.low, compared.high)
    dense = Span(*(cost.whole(images, keeping=True) for images in ones))
    return expected_stage(
        context.pace,
        work.stage,
        cost.seconds(work) + dense,
        candidates=work.candidates,
        evaluated=work.images,
    )


def _search_images(context: SearchContext) -> int:
    return len(context.image_sets().search)


def _dense_known(context: SearchContext) -> int:
    """Search images that the ledger has the dense model's hits on."""
    return len(context.ledger.hits(Plan().digest, _search_images(context)))


def _outset(context: SearchContext, leaves: float | None, ends_on_all: bool = False) -> Outset:
    size = ShippedSize(context.model, context.prunable.groups)
    whole = size.bytes({})
    return Outset(
        settings=context.settings,
        groups=context.prunable.groups,
        images=len(context.image_sets().search),
        leaves=leaves,
        share_of=lambda widths: size.bytes(widths) / whole,
        ends_on_all=ends_on_all,
    )


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
        if _dense_known(context.search) < len(context.images.search) and not pruned:
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
    # The shipped model is timed as if it were the dense one: what is left of it is not known.
    stages.append(expected_stage(pace, "held-out accuracy", 2.0 * held_out, guessed=True))
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


def _dense(context: SearchContext) -> list[ExpectedStage]:
    if _dense_known(context):
        return []
    images = min(DENSE_IMAGES, _search_images(context))
    seconds = candidate_cost(context).whole(images, keeping=True)
    count = Span.exactly(images)
    return [expected_stage(context.pace, "dense accuracy", seconds, evaluated=count)]


def _calibration(context: SearchContext) -> list[ExpectedStage]:
    if not set(context.settings.recover) & {"bias", "refit", "free"}:
        return []
    images = min(CALIBRATION_IMAGES, len(context.image_sets().calibration))
    batch, workers = context.model.batch_of(32), context.compute.workers or 1
    shared = min(images, batch * math.ceil(math.ceil(images / batch) / workers))
    seconds = shared * context.pace.calibration_s
    return [expected_stage(context.pace, "calibration", seconds)]


def _reported(
    context: SearchContext, name: str, held_out: int, timesteps: Sequence[int]
) -> list[ExpectedStage]:
    """Held-out accuracy of a model at its own T and at others, and its latency there."""
    pace = context.pace
    stages = [expected_stage(pace, name, held_out * pace.image_s)]
    for steps in timesteps:
        work = held_out * pace.image_s * steps / context.model.timesteps
        stages.append(expected_stage(pace, f"{name}, T = {steps}", work + pace.exporting_s))
    if timesteps:
        latency = f"latency, {name.partition(', ')[2]}"
        stages.append(expected_stage(pace, latency, 0.0, fixed_s=_TIMING_S))
    return stages
