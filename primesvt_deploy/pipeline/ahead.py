"""Stages that a search, a frontier or an analysis has before it, and the seconds of each.

What policies will evaluate is in `pruning.policies.expected`; what that takes is reckoned from
times measured on this machine (`cost_pace`, `cost_candidates`). Progress gets the stages as a plan,
from which it tells the time left, and `--dry-run` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.loading import loading_workers
from primesvt_deploy.data.pixel_cache import SHOWN, unread
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.cost_candidates import CandidateCost
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pipeline.cost_stage import ExpectedStage, expected_stage
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.expected import expected_work, robustness_work
from primesvt_deploy.pruning.policies.work import Outset, Work, without_known
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, HEAD_IMAGES
from primesvt_deploy.pruning.search.evaluator import chunk_size
from primesvt_deploy.pruning.search.judge import DENSE_IMAGES
from primesvt_deploy.pruning.search.state_cache import default_bytes
from primesvt_deploy.settings import HEAD

__all__ = [
    "analysis_ahead",
    "calibration_ahead",
    "candidate_cost",
    "dense_ahead",
    "dense_known",
    "frontier_ahead",
    "plan_ahead",
    "pruning_ahead",
    "reading_ahead",
    "search_reading_ahead",
]

_TIMING_S, _CUT_S = 7.0, 0.5
"""Seconds of latency, and of a cut: they are about the same for every model."""
_FIRING_IMAGES = 256
_WATCHED = 2.0
"""Seconds an image whose spikes are counted, by those of one that is only classified."""


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
        return [] if context.images is None else calibration_ahead(context)
    stages = [
        *search_reading_ahead(context),
        *calibration_ahead(context),
        *dense_ahead(context),
    ]
    if settings.policy == "greedy" and pace.importance_s:
        seconds = sum(pace.importance_s.values())
        stages.append(expected_stage(pace, "channel importance", seconds, guessed=True))
    known = [(each.step, each.group) for each in context.ledger]
    works = without_known(expected_work(_outset(context, leaves, ends_on_all)), known)
    seen = Span.exactly(max(dense_known(context), min(DENSE_IMAGES, _search_images(context))))
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
        *search_reading_ahead(context),
        *calibration_ahead(context),
        *dense_ahead(context),
        _searching(
            context, robustness_work(_outset(context, None)), Span.exactly(_search_images(context))
        ),
        expected_stage(context.pace, "firing rates", watched),
        expected_stage(context.pace, "energy estimate", watched),
    ]


def frontier_ahead(
    context: SearchContext,
    held_out: ImageList,
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
    before, count = 0.0, len(held_out)
    for number, saving in enumerate(savings):
        # The greedy policy goes on from the point before.
        leaves = (saving - (before if context.settings.policy == "greedy" else 0.0)) / 100.0
        pruning, before = pruning_ahead(context, leaves, ends_on_all=True), saving
        once = ("reading images", "dense accuracy", "calibration", "channel importance")
        known = once if number or begun else ()
        stages += [stage for stage in pruning if stage.name not in known]
        if not known:
            stages += reading_ahead(context.pace, held_out)
        stages += _reported(context, f"held-out, {saving:g}% saved", count, timesteps)
        if not known:
            dense = expected_stage(context.pace, "held-out, dense", count * context.pace.image_s)
            stages.insert(len(stages) - len(timesteps) - bool(timesteps), dense)
    if timesteps:
        stages += _reported(context, "held-out, dense", count, timesteps)[1:]
    return stages


def candidate_cost(context: SearchContext) -> CandidateCost:
    """Seconds of candidates on the device and the workers of a search."""
    images = 0 if context.images is None else len(context.images.search)
    return CandidateCost(
        pace=context.pace,
        dense_images=images,
        cache_bytes=default_bytes(context.device),
        chunk=chunk_size(context.pace.batch),
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
    more = work.compared.beyond(seen)
    ones = (more.likely, more.low, more.high)
    dense = Span(*(cost.whole(images, keeping=True) for images in ones))
    return expected_stage(
        context.pace,
        work.stage,
        cost.seconds(work) + dense,
        candidates=work.candidates,
        evaluated=work.images + more,
        compared=seen.at_least(work.compared),
    )


def _search_images(context: SearchContext) -> int:
    return len(context.image_sets().search)


def dense_known(context: SearchContext) -> int:
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
        early=_early(context.prunable.groups, context.pace.entrance),
        ends_on_all=ends_on_all,
    )


def _early(groups: Sequence[Group], entrance: Mapping[str, int]) -> list[str]:
    """Groups that begin no later than the stream, the group that most layers take."""
    stream = max(groups, key=lambda group: len(group.inputs), default=None)
    if stream is None:
        return []
    names = [each.name for each in groups if entrance[each.name] <= entrance[stream.name]]
    return names if len(names) < len(groups) else []


def dense_ahead(context: SearchContext) -> list[ExpectedStage]:
    """The stage in which the dense model is looked at first, unless a ledger has that."""
    if dense_known(context):
        return []
    images = min(DENSE_IMAGES, _search_images(context))
    seconds = candidate_cost(context).whole(images, keeping=True)
    count = Span.exactly(images)
    return [
        expected_stage(context.pace, "dense accuracy", seconds, evaluated=count, compared=count)
    ]


def search_reading_ahead(context: SearchContext) -> list[ExpectedStage]:
    """The stage in which this process decodes the search images; workers decode their own."""
    if context.compute.distributed or dense_known(context):
        return []
    return reading_ahead(context.pace, context.image_sets().search)


def reading_ahead(pace: Pace, images: ImageList) -> list[ExpectedStage]:
    """The stage in which images are decoded, unless they are few or were decoded before.

    Args:
        pace: of this machine.
        images: about to be used.
    """
    count = unread(images)
    if count < SHOWN:
        return []
    seconds = count * pace.decode_s / max(1, loading_workers(count))
    return [expected_stage(pace, "reading images", seconds)]


def calibration_ahead(context: SearchContext) -> list[ExpectedStage]:
    """The stage that measures the inputs of layers, where recovery needs them."""
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
