"""`estimate`: what a build, or an analysis, will cost here, after some seconds of measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from primesvt_deploy.compute.device import device_name
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.measure.span import Span
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead import analysis_ahead, candidate_cost
from primesvt_deploy.pipeline.ahead_of_build import build_ahead
from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.pipeline.cost_artifact import with_artifact_measured
from primesvt_deploy.pipeline.cost_intervals import (
    SearchImages,
    discordant_share,
    search_image_choices,
)
from primesvt_deploy.pipeline.cost_measure import THOROUGH_S
from primesvt_deploy.pipeline.cost_memory import ExpectedMemory, expected_memory
from primesvt_deploy.pipeline.cost_stage import ExpectedStage, expected_stage
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.pipeline.outlook import Outlook, outlook_of
from primesvt_deploy.pipeline.workers import open_session
from primesvt_deploy.progress import AUTOMATIC, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.progress.words import about
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.pruning.search.trial import KEPT_IMAGES
from primesvt_deploy.settings import BuildSettings, ComputeSettings, SearchSettings
from primesvt_deploy.summary import Shown, Summary, megabytes

__all__ = ["ExpectedCost", "estimate"]

_STARTING_S = 8.0
"""Seconds until Ray and its workers run, of which those of importing PyTorch are the most."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpectedCost(Shown):
    """Time, memory and candidates that a build or an analysis is expected to take.

    Args:
        name: of the model.
        what: `build` or `analyze`.
        stages: in order.
        memory: its peak.
        search_images: what other numbers of search images would give.
        discordant: share of images on which a candidate differs from the dense model, behind them.
        outlook: what sizes alone tell of a budget; None: they do not, or there is none.
        device: that computes, in words.
        workers: processes that evaluate.
        known: candidates that a ledger has already.
        measured_s: seconds that measuring took.
    """

    name: str
    what: str
    stages: tuple[ExpectedStage, ...]
    memory: ExpectedMemory
    search_images: tuple[SearchImages, ...]
    discordant: float
    outlook: Outlook | None
    device: str
    workers: int
    known: int
    measured_s: float

    @property
    def seconds(self) -> Span:
        """Seconds of all stages."""
        return Span.total(stage.span for stage in self.stages)

    @property
    def candidates(self) -> Span:
        """Candidates that will be evaluated."""
        return Span.total(each.candidates for each in self.stages if each.candidates is not None)

    @property
    def images(self) -> Span:
        """Search images that candidates and the dense model will classify."""
        return Span.total(each.evaluated for each in self.stages if each.evaluated is not None)

    @property
    def reachable(self) -> bool:
        """Whether sizes alone leave the budget within reach, as far as they tell."""
        return self.outlook is None or self.outlook.reachable

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        outlook = self.outlook
        return {
            "model": self.name,
            "of": self.what,
            "device": self.device,
            "workers": self.workers,
            "seconds": self.seconds.to_dict(1),
            "candidates": self.candidates.to_dict(1),
            "images": self.images.to_dict(),
            "known_candidates": self.known,
            "memory": self.memory.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "search_images": [each.to_dict() for each in self.search_images],
            "discordant_share": round(self.discordant, 4),
            "budget": None
            if outlook is None
            else {
                "budget_bytes": outlook.budget_bytes,
                "smallest_bytes": outlook.smallest_bytes,
                "reachable": outlook.reachable,
                "fits_unpruned_as": outlook.precision.value if outlook.precision else None,
            },
            "measured_seconds": round(self.measured_s, 1),
        }

    def _summary(self) -> Summary:
        seconds, candidates, images = self.seconds, self.candidates, self.images
        rows = [
            ("time", f"{about(seconds.likely)} ({about(seconds.low)} to {about(seconds.high)})"),
            ("candidates", f"{candidates.likely:,.0f}, on {images.likely:,.0f} images in all"),
            ("memory", f"{megabytes(self.memory.peak)} at its peak"),
            ("device", f"{self.device}, {self.workers} workers"),
        ]
        if self.outlook is not None:
            within = "within" if self.outlook.reachable else "OUT OF"
            rows.append(("budget", f"{megabytes(self.outlook.budget_bytes)}, {within} reach by "
                                   "size alone"))  # fmt: skip
        return Summary(f"Expected cost of `{self.what}` of {self.name}", tuple(rows))


@drawn_by_default
def estimate(
    model: SViT,
    settings: BuildSettings | SearchSettings,
    *,
    data: DataSet | None = None,
    ledger: Ledger | None = None,
    compute: ComputeSettings | None = None,
    progress: Progress = AUTOMATIC,
) -> ExpectedCost:
    """Cost of `build`, or `analyze`, on this machine; nothing is searched or written.

    Args:
        model: a trained SViT.
        settings: of the build, or of the search of an analysis.
        data: default: the data bundled with the model.
        ledger: candidates evaluated before, which cost nothing; default: none.
        compute: where an analysis computes; that of a build is in its settings.
        progress: gets each step; default: a bar on a terminal or in a notebook, elsewhere nothing;
            `SILENT`: nothing.

    Raises:
        DataError: data that do not fit the model, or that recovery needs more of.
        ExportError: the model cannot be exported.
        ClusterError: a cluster that cannot be joined, or is too small.
        SettingsError: recovery that the model does not allow, a device that is not there, or more
            workers than images.
    """
    builds = isinstance(settings, BuildSettings)
    search = settings.pruning if isinstance(settings, BuildSettings) else settings
    splits = data or open_data(model, seed=search.seed)
    if isinstance(settings, BuildSettings) and settings.threads:
        torch.set_num_threads(settings.threads)
    if isinstance(settings, BuildSettings):
        compute = settings.compute
    compute = compute or ComputeSettings()
    alone = replace(compute, workers=None, ray=None)  # no worker is started to be measured
    context = unjudged_context(
        model, search, splits, ledger=ledger, compute=alone, progress=progress
    )
    images = len(context.image_sets().search)
    compute.check_images(images)
    if compute.ray is not None:  # it is joined, to see what it has, and left
        with open_session(compute, images) as session:
            compute = replace(compute, workers=session.placement.workers)
        compute.check_images(images)
    context = replace(context, compute=compute)
    started = time.perf_counter()
    progress.stage("measuring what operations take here", 2 if builds else 1, "")
    pace = context.measure(seconds=THOROUGH_S)
    progress.step()
    if isinstance(settings, BuildSettings):
        pace = with_artifact_measured(pace, model, context.image_sets().search, settings.threads)
        progress.step()
    context = replace(context, measured_pace=pace)
    measured_s = time.perf_counter() - started
    listed = _stages_of(settings)
    chosen = len(context.image_sets().search)
    discordant = discordant_share(context.ledger)

    def seconds_of(images: int) -> Span:
        fewer = _with_images(context, splits, images)
        return Span.total(stage.span for stage in listed(fewer))

    stages = tuple(listed(context))
    states = candidate_cost(context).state_bytes(_images_kept(stages, search))
    recorded = model.recorded_accuracy
    return ExpectedCost(
        name=model.name,
        what="build" if builds else "analyze",
        stages=stages,
        memory=expected_memory(model, pace, states, context.device),
        search_images=tuple(
            search_image_choices(
                len(splits.search),
                chosen,
                None if recorded is None else recorded / 100.0,
                discordant,
                seconds_of,
            )
        ),
        discordant=discordant,
        outlook=(
            outlook_of(context, settings, dense_bytes=pace.artifact_bytes)
            if isinstance(settings, BuildSettings)
            else None
        ),
        device=device_name(context.device),
        workers=context.compute.workers or 1,
        known=len(context.ledger),
        measured_s=measured_s,
    )


def _images_kept(stages: Sequence[ExpectedStage], search: SearchSettings) -> int:
    """Images whose states are cached: of decisions that see few, only the first ones are."""
    seen = max((stage.compared.likely for stage in stages if stage.compared), default=0.0)
    return int(seen if search.max_drop is None else min(seen, 1.5 * KEPT_IMAGES))


def _stages_of(
    settings: BuildSettings | SearchSettings,
) -> Callable[[SearchContext], Sequence[ExpectedStage]]:
    """Lists the stages of a build, or of an analysis, of a context."""
    if isinstance(settings, SearchSettings):
        return lambda context: [*_starting(context), *analysis_ahead(context)]

    def stages(context: SearchContext) -> list[ExpectedStage]:
        build = BuildContext(settings=settings, search=context)
        name = "export of the dense model"
        exported = expected_stage(context.pace, name, context.pace.exporting_s)
        return [*_starting(context), exported, *build_ahead(build)]

    return stages


def _starting(context: SearchContext) -> list[ExpectedStage]:
    """The stage in which workers are started, if there are any."""
    if not context.compute.distributed:
        return []
    return [expected_stage(context.pace, "starting workers", 0.0, fixed_s=_STARTING_S)]


def _with_images(context: SearchContext, splits: DataSet, count: int) -> SearchContext:
    """The same search on another number of search images."""
    images = context.image_sets()
    ordered = splits.search.shuffled(context.settings.seed)
    return replace(
        context,
        settings=replace(context.settings, search_images=count),
        images=replace(images, search=ordered.first(count)),
    )
