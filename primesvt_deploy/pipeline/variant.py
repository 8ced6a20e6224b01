"""A model in one precision, pruned as far as the budget asks, and the best of several.

A pruned model is fine-tuned, and set to fewer timesteps, where that is asked for, before it is
quantized.

With less than float32 the dense model is quantized first. If it fits the budget, nothing is
pruned; else what quantizing costs on the search split is set aside from the accuracy constraint,
the rest is the policy's, and the pruned model is quantized anew. What counts is measured of the
artifact: if it is beyond the budget after all, the policy is asked for as much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.prune import (
    PruneResult,
    Target,
    calibration_images,
    prune,
    search_images,
)
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.group_check import Prunable, prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import BudgetOn, BuildSettings, Precision
from primesvt_deploy.training.finetune import Finetuned, finetune

__all__ = ["Candidates", "Variant", "best"]

_CALIBRATION = 128
_FEWEST_CALIBRATION = 32
_EVALUATION_BATCH = 16
_ATTEMPTS = 4
_PROCESSES = 3
_RSS_PER_BYTE = 2.5
"""Resident bytes for each byte of weights, to begin with: a file is read, unpacked and packed."""
_RSS_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model in one precision.

    Args:
        pruned: how the policy ended.
        twin: what the artifact computes, in torch: the pruned model, or its quantized twin.
        artifact: the model file.
        size: bytes of what the budget counts.
        weight_bytes: bytes of weights, scales and biases.
        drop: what it loses against the dense float32 model on the search split; None where
            nothing was evaluated.
        max_drop: points that may be lost; None: any.
        finetuned: how the pruned model was trained on, if it was.
    """

    pruned: PruneResult
    twin: SViT
    artifact: Artifact
    size: int
    weight_bytes: int
    drop: PairedDrop | None
    max_drop: float | None
    finetuned: Finetuned | None = None

    @property
    def budget_met(self) -> bool:
        """Whether it is within the budget."""
        return self.size <= self.pruned.budget_bytes

    @property
    def accuracy_met(self) -> bool:
        """Whether it is within the accuracy constraint, on the search split."""
        allowed, lost = self.max_drop, self.drop
        return allowed is None or lost is None or lost.points <= allowed


def best(variants: Sequence[Variant], *, smallest: bool = False) -> Variant:
    """The most accurate within budget and constraint, else within the budget, else the smallest.

    Accuracy is that on the search split; among equals the smaller file is better. With `smallest`
    it is the smallest that keeps the constraint.
    """

    def merit(variant: Variant) -> tuple[bool, bool, float, int]:
        lost = 0.0 if variant.drop is None else variant.drop.points
        met = variant.budget_met and variant.accuracy_met
        order = lost if variant.budget_met and not smallest else float(variant.size)
        return met, variant.budget_met, -order, -variant.artifact.bytes

    return max(variants, key=merit)


@dataclass(frozen=True)
class _Made:
    """A twin, its artifact, and bytes of what the budget counts."""

    twin: SViT
    artifact: Artifact
    size: int


class Candidates:
    """Makes variants of one model.

    Args:
        model: the dense SViT.
        settings: budget and constraint.
        data: search and held-out split.
        ledger: pruning candidates already known.
        dense: the dense float32 artifact.
        directory: where artifacts go.
        progress: told of each step.
        known: answer from this ledger alone, without a search.
        checkpoints: where fine-tuning keeps its progress.
    """

    def __init__(
        self,
        model: SViT,
        settings: BuildSettings,
        data: DataSet,
        ledger: Ledger,
        dense: Artifact,
        directory: Path,
        progress: Progress,
        *,
        known: Ledger | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self._known, self._checkpoints = known, checkpoints
        self._model, self._settings, self._data = model, settings, data
        self._ledger, self._dense, self._directory = ledger, dense, directory
        self._progress = progress
        self._prunable: Prunable | None = None
        self._dense_hits: npt.NDArray[np.bool_] | None = None
        self._dense_peak = 0
        dense_size = self._size(model, dense)
        if settings.budget_on is BudgetOn.RSS:
            self._dense_peak = dense_size
        self._budget = settings.budget_bytes(dense_size)
        self._refuse_less_than_nothing()

    def variant(self, precision: Precision) -> Variant:
        """The model in a precision, pruned if it must be."""
        dense = self._made(self._at_timesteps(self._model), precision, "dense")
        lost = self._lost(dense.artifact)
        target = self._target(dense, lost)
        allowed = self._settings.search.max_drop
        too_much = lost is not None and allowed is not None and lost.points > allowed
        if lost is not None and allowed is not None and too_much and not self._settings.finetune:
            return self._alone(dense, lost, allowed)
        if dense.size <= self._budget:
            if self._settings.finetune:
                self._progress.message("nothing has to leave, so nothing is fine-tuned")
            pruned = replace(self._pruned(target), model=self._at_timesteps(self._model))
            return self._variant(dense, pruned, lost)
        finetuned: Finetuned | None = None
        for _ in range(_ATTEMPTS):
            pruned = self._pruned(target)
            finetuned = self._finetuned(pruned)
            if finetuned is not None:
                pruned = replace(pruned, model=finetuned.model)
            pruned = replace(pruned, model=self._at_timesteps(pruned.model))
            made = self._made(pruned.model, precision, "pruned")
            lost = self._lost(made.artifact) if finetuned is None else self._drop_asked(made)
            again = self._corrected(target, pruned, made, lost)
            if again is None:
                break
            target = again
        return replace(self._variant(made, pruned, lost), finetuned=finetuned)

    def _corrected(
        self, target: Target, pruned: PruneResult, made: _Made, lost: PairedDrop | None
    ) -> Target | None:
        """What to ask the policy for instead, once the artifact is measured; None: nothing."""
        leaving = target.leaving(pruned.outcome.plan, pruned.groups)
        if not leaving or self._settings.smallest:
            return None
        saved = target.dense_bytes - made.size
        beyond = made.size - self._budget
        if self._settings.budget_on is BudgetOn.RSS and saved > 0:
            far = abs(beyond) > _RSS_TOLERANCE * (target.dense_bytes - self._budget)
            learnt = replace(target, per_byte=saved / leaving)
            if far and abs(learnt.per_byte / target.per_byte - 1.0) > _RSS_TOLERANCE:
                return learnt
        if beyond > 0 and pruned.outcome.met:
            return replace(target, budget_bytes=target.budget_bytes - beyond)
        allowed = self._settings.search.max_drop
        out_of_reach = beyond > 0  # and pruning less would only leave it further
        if out_of_reach or lost is None or allowed is None or self._settings.finetune:
            return None
        if lost.points > allowed:
            return replace(target, reserve=target.reserve + lost.points - allowed)
        return None

    def _alone(self, dense: _Made, lost: PairedDrop, allowed: float) -> Variant:
        """The dense model, where quantizing it costs more than may be lost: no search helps."""
        steps = self._settings.ship_timesteps
        what = dense.artifact.precision.value + (f" at T = {steps}" if steps else "")
        reason = (
            f"{what} alone, without pruning, loses {lost.points:.2f} points on the search split, "
            f"more than {allowed:g}"
        )
        outcome = PolicyOutcome(
            plan=Plan(),
            met=dense.size <= self._budget,
            bytes=dense.size,
            drop_points=0.0,
            stopped_by=reason,
            steps=(),
        )
        pruned = PruneResult(
            model=self._at_timesteps(self._model),
            outcome=outcome,
            groups=self._groups().groups,
            budget_bytes=self._budget,
            dense=None,
            left=self._groups().left,
        )
        return self._variant(dense, pruned, lost, reason)

    def _made(self, model: SViT, precision: Precision, name: str) -> _Made:
        """`model` quantized, exported and measured."""
        twin, artifact = model, self._dense
        if precision is not Precision.FP32:
            samples = self._samples() if precision is Precision.INT4 else None
            twin = quantize(model, precision.bits, samples, progress=self._progress)
        if precision is not Precision.FP32 or model is not self._model:
            self._progress.stage(f"export, {precision.value}", 1)
            artifact = export_onnx(
                twin,
                self._directory / f"{name}-{precision.value}.onnx",
                batch=self._settings.batch,
                precision=precision,
                standard=self._settings.standard_ops,
            )
            self._progress.step()
        return _Made(twin, artifact, self._size(twin, artifact))

    def _samples(self) -> torch.Tensor:
        images = search_images(self._data, self._settings.search)
        wanted = max(_FEWEST_CALIBRATION, self._model.batch_of(_CALIBRATION))
        return torch.from_numpy(images.inputs(0, min(wanted, len(images))))

    def _pruned(self, target: Target) -> PruneResult:
        return prune(
            self._model,
            self._settings,
            data=self._data,
            ledger=self._ledger,
            target=target,
            prunable=self._groups(),
            known=self._known,
            progress=self._progress,
        )

    def _finetuned(self, pruned: PruneResult) -> Finetuned | None:
        settings, plan = self._settings.finetune, pruned.outcome.plan
        if settings is None or not plan.kept:
            return None
        beside = self._checkpoints
        return finetune(
            pruned.model,
            self._model,
            self._data.train,
            settings,
            checkpoint=beside / f"finetune-{plan.digest}.pt" if beside else None,
            progress=self._progress,
        )

    def _at_timesteps(self, model: SViT) -> SViT:
        """The model at the T that is to be shipped."""
        steps = self._settings.ship_timesteps
        if steps is None:
            return model
        images = calibration_images(self._data, self._settings.search)
        count = min(len(images), self._model.batch_of(_CALIBRATION))
        return with_timesteps(model, steps, torch.from_numpy(images.inputs(0, count)))

    def _target(self, dense: _Made, lost: PairedDrop | None) -> Target:
        on = self._settings.budget_on
        target = Target(
            budget_bytes=self._budget,
            dense_bytes=dense.size,
            weights=ShippedSize(dense.twin, self._groups().groups, dense.artifact.bits),
            # What training makes up for need not be set aside.
            reserve=max(0.0, lost.points) if lost and not self._settings.finetune else 0.0,
        )
        if on is BudgetOn.RSS:
            return replace(target, per_byte=_RSS_PER_BYTE, margin=0)
        return replace(target, margin=0) if on is BudgetOn.PARAMS else target

    def _groups(self) -> Prunable:
        self._prunable = self._prunable or prunable_groups(self._model)
        return self._prunable

    def _lost(self, artifact: Artifact) -> PairedDrop | None:
        """What quantizing costs on the search split; None where nobody asks, or for float32."""
        changed = artifact.precision is not Precision.FP32 or self._settings.ship_timesteps
        return self._drop(artifact) if self._accuracy_asked and changed else None

    def _drop_asked(self, made: _Made) -> PairedDrop | None:
        return self._drop(made.artifact) if self._accuracy_asked else None

    @property
    def _accuracy_asked(self) -> bool:
        return self._settings.search.max_drop is not None or self._settings.precision is None

    def _variant(
        self,
        made: _Made,
        pruned: PruneResult,
        lost: PairedDrop | None,
        reason: str | None = None,
    ) -> Variant:
        drop = lost
        if drop is None and made.artifact.precision is Precision.FP32:
            drop = self._drop_of_pruning(made, pruned)
        if drop is not None and pruned.dense is None and self._dense_hits is not None:
            pruned = replace(pruned, dense=Accuracy.of(self._dense_hits))
        # The policy went by predictions; what counts is measured.
        budget = made.size if self._settings.smallest else self._budget
        met = made.size <= budget
        told = reason or pruned.outcome.stopped_by
        if met and not pruned.outcome.met:
            told = "the budget is met"
        outcome = replace(pruned.outcome, met=met, bytes=made.size, stopped_by=told)
        return Variant(
            pruned=replace(pruned, outcome=outcome, budget_bytes=budget),
            twin=made.twin,
            artifact=made.artifact,
            size=made.size,
            weight_bytes=_weight_bytes(made.twin, made.artifact),
            drop=drop,
            max_drop=self._settings.search.max_drop,
        )

    def _drop_of_pruning(self, made: _Made, pruned: PruneResult) -> PairedDrop | None:
        changed = self._settings.finetune is not None and bool(pruned.outcome.plan.kept)
        if changed or self._settings.ship_timesteps:
            return None  # the plan's own drop is another model's
        if pruned.outcome.steps:
            return pruned.outcome.steps[-1].drop
        if not pruned.outcome.plan.kept:
            return PairedDrop(0, 0, len(search_images(self._data, self._settings.search)))
        # Sizes alone decided; several precisions are compared by accuracy all the same.
        return self._drop(made.artifact) if self._settings.precision is None else None

    def _drop(self, artifact: Artifact) -> PairedDrop:
        """What an artifact loses on the search split against the dense float32 model."""
        dense = self._hits_of_dense()
        return PairedDrop.of(dense, self._hits(artifact, f"search accuracy, {artifact.precision}"))

    def _hits_of_dense(self) -> npt.NDArray[np.bool_]:
        if self._dense_hits is None:
            images = search_images(self._data, self._settings.search)
            known = self._ledger.find(Plan().digest, len(images))
            self._dense_hits = (
                known.hits() if known else self._hits(self._dense, "search accuracy, dense")
            )
        return self._dense_hits

    def _hits(self, artifact: Artifact, stage: str) -> npt.NDArray[np.bool_]:
        images = search_images(self._data, self._settings.search)
        size = artifact.batch or self._model.batch_of(_EVALUATION_BATCH)
        self._progress.stage(stage, -(-len(images) // size))
        model = OnnxModel(artifact.path, threads=self._settings.threads)
        return artifact_hits(model, images, batch_size=size, progress=self._progress)

    def _size(self, twin: SViT, artifact: Artifact) -> int:
        """Bytes of what the budget counts."""
        if self._settings.budget_on is BudgetOn.PARAMS:
            return _weight_bytes(twin, artifact)
        if self._settings.budget_on is BudgetOn.RSS:
            if artifact is self._dense and self._dense_peak:
                return self._dense_peak
            return self._peak(artifact.path)
        return artifact.bytes

    def _peak(self, path: Path) -> int:
        """Median of a few processes."""
        threads = self._settings.threads
        return int(median(measure_memory(path, threads=threads).peak for _ in range(_PROCESSES)))

    def _refuse_less_than_nothing(self) -> None:
        if self._settings.budget_on is not BudgetOn.RSS or self._settings.smallest:
            return
        floor = measure_memory(self._dense.path, threads=self._settings.threads).imported
        if self._budget <= floor:
            raise SettingsError(
                f"a budget of {self._budget / 1e6:.1f} MB of resident memory: Python with "
                f"onnxruntime has {floor / 1e6:.1f} MB before any model; raise --budget-mb"
            )


def _weight_bytes(twin: SViT, artifact: Artifact) -> int:
    return ShippedSize(twin, (), artifact.bits).bytes({})
