"""Contexts: all that a search, or a build, rests on; made once, before any stage."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import torch

from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.data import ImageList
from primesvt_deploy.errors import DataError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.cost_measure import QUICK_S, measure_pace
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pipeline.image_sets import ImageSets
from primesvt_deploy.pipeline.recorded_accuracy import chance_warning
from primesvt_deploy.pipeline.workers import driver_device, open_session, shared_engine
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.group_check import Prunable
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn
from primesvt_deploy.pruning.search.engine import EvaluationEngine
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.pruning.search.judge import LedgerJudge
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.settings import BuildSettings, ComputeSettings, SearchSettings

__all__ = ["BuildContext", "SearchContext"]


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """All that a search for a plan rests on.

    Args:
        model: the dense SViT; no stage changes it.
        settings: how candidates are made and judged.
        prunable: the channels that can leave.
        images: None: no data, so nothing can be evaluated or calibrated.
        ledger: candidates evaluated so far.
        progress: gets each step.
        compute: where it computes.
        measured_pace: what operations take, if that was measured before.
        doubts: warnings that were given; filled by `doubt`.
        ending: what ends with the context, such as workers.
    """

    model: SViT
    settings: SearchSettings
    prunable: Prunable
    images: ImageSets | None
    ledger: Ledger
    progress: Progress = SILENT
    compute: ComputeSettings = ComputeSettings()
    measured_pace: Pace | None = None
    doubts: list[str] = field(default_factory=list)
    ending: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> SearchContext:
        return self

    def __exit__(self, *_error: object) -> None:
        self.ending.close()

    def image_sets(self) -> ImageSets:
        """The images.

        Raises:
            DataError: there are none.
        """
        if self.images is None:
            raise DataError(f"{self.model.name}: no data were given to search or calibrate on")
        return self.images

    @cached_property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return driver_device(self.compute)

    @property
    def kind(self) -> str:
        """Kind of the device that candidates are evaluated on, `cpu` or `cuda`."""
        return self.device.type if self.session is None else self.session.placement.device

    @cached_property
    def recovery(self) -> Recovery:
        """Recovery of pruned models on the calibration images."""
        images, steps = self.image_sets().calibration, self.settings.recover
        return Recovery(self.model, self.prunable.groups, images, steps, device=self.device)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space; constant channels are found in it only where there are data."""
        return SearchSpace(
            self.model,
            self.prunable.groups,
            channel_multiple=self.settings.channel_multiple,
            recovery=None if self.images is None else self.recovery,
        )

    def doubt(self, dense: Accuracy, split: str = "search") -> None:
        """Warn, the first time, of a dense model that hardly does better than guessing.

        Args:
            dense: its top-1.
            split: of the images that this was measured on.
        """
        warning = chance_warning(self.model, dense, split)
        if warning is not None and not self.doubts:
            self.doubts.append(warning)
            self.progress.message(warning)

    @cached_property
    def pace(self) -> Pace:
        """Seconds of single operations here; the first time they are measured, in a few seconds."""
        return self.measured_pace or self.measure(seconds=QUICK_S)

    @cached_property
    def forward_pace(self) -> Pace:
        """The same without recovery, where nothing is recovered: measured in less time."""
        return self.measured_pace or self.measure(seconds=QUICK_S / 4.0, recovers=False)

    def measure(self, *, seconds: float, recovers: bool = True) -> Pace:
        """Measure what single operations take on this machine.

        Args:
            seconds: to spend on it, about.
            recovers: measure recovery, too.
        """
        images = self.images
        return measure_pace(
            self.model,
            self.prunable.groups,
            self.settings,
            images=None if images is None else images.search,
            calibration=None if images is None or not recovers else images.calibration,
            on=EvaluatedOn(device=self.device, precision=self.settings.evaluation_precision),
            seconds=seconds,
        )

    @cached_property
    def session(self) -> RaySession | None:
        """Session with workers; None: this process computes alone."""
        if not self.compute.distributed or self.images is None:
            return None
        session = open_session(self.compute, len(self.images.search))
        return self.ending.enter_context(session)

    @cached_property
    def engine(self) -> EvaluationEngine:
        """Engine that evaluates candidates on the search images."""
        images, groups = self.image_sets().search, self.prunable.groups
        precision = self.settings.evaluation_precision
        if self.session is not None:
            engine = shared_engine(
                self.session, self.compute, self.model, groups, images, self.recovery,
                precision=precision, progress=self.progress,
            )  # fmt: skip
            self.ending.callback(engine.release)
            return engine
        return Evaluator(
            self.model,
            groups,
            images,
            recovery=self.recovery,
            on=EvaluatedOn(device=self.device, precision=precision),
            tell=self.progress.message,
        )

    def start_workers(self) -> None:
        """Start the workers, if any are asked for, before what takes long.

        Raises:
            DeployError: they cannot be had, or lack what they need.
        """
        if not self.compute.distributed or self.images is None:
            return
        self.progress.stage("starting workers", 1)
        try:
            self.engine.start()
        except BaseException:
            self.ending.close()
            raise
        self.progress.step(f"{self.engine.at_once} on {self.engine.device.upper()}")

    @cached_property
    def judge(self) -> LedgerJudge:
        """Judge of candidates on the search images."""
        return LedgerJudge(
            self.engine,
            self.ledger,
            weights=self.model.source.sha256 if self.model.source is not None else "",
            progress=self.progress,
        )


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """All that a build rests on.

    Args:
        settings: budget, constraint, precision and the rest.
        search: of its plans, with the accuracy that pruning may cost before any fine-tuning.
        from_ledger: take plans from the ledger; evaluate no candidate.
        command: that asked for the build, if one did.
    """

    settings: BuildSettings
    search: SearchContext
    from_ledger: bool = False
    command: str | None = None

    @property
    def model(self) -> SViT:
        """The dense SViT."""
        return self.search.model

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return self.search.device

    @property
    def progress(self) -> Progress:
        """Gets each step."""
        return self.search.progress

    @property
    def images(self) -> ImageSets:
        """Images by purpose."""
        return self.search.image_sets()

    @property
    def held_out(self) -> ImageList:
        """Held-out images that figures are reported on, as many as the settings say."""
        images, most = self.images.held_out, self.settings.held_out_images
        return images if most is None else images.shuffled(self.settings.search.seed).first(most)
