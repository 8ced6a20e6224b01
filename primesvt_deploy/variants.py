"""A model in one precision, pruned as far as the budget asks, and the best of several.

With less than float32 the dense model is quantized first. If it fits the budget, nothing is
pruned; else what quantizing costs on the search split is set aside from the accuracy constraint,
the rest is the policy's, and the pruned model is quantized anew. What counts is measured of the
artifact: if it is beyond the budget after all, the policy is asked for as much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.onnx_file import Artifact, export_onnx
from primesvt_deploy.config import BudgetOn, BuildSettings, Precision
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model import SViT
from primesvt_deploy.pipeline import PruneResult, Target, prune, search_images
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.ledger import Ledger
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.trial import Prunable, prunable_groups
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.quantization.stored import bits_of
from primesvt_deploy.runtime.session import OnnxModel
from primesvt_deploy.stats import Accuracy, PairedDrop

__all__ = ["Candidates", "Variant", "best"]

_CALIBRATION = 128
_FEWEST_CALIBRATION = 32
_EVALUATION_BATCH = 16
_ATTEMPTS = 4


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
    """

    pruned: PruneResult
    twin: SViT
    artifact: Artifact
    size: int
    weight_bytes: int
    drop: PairedDrop | None
    max_drop: float | None

    @property
    def budget_met(self) -> bool:
        """Whether it is within the budget."""
        return self.size <= self.pruned.budget_bytes

    @property
    def accuracy_met(self) -> bool:
        """Whether it is within the accuracy constraint, on the search split."""
        allowed, lost = self.max_drop, self.drop
        return allowed is None or lost is None or lost.points <= allowed


def best(variants: Sequence[Variant]) -> Variant:
    """The most accurate within budget and constraint, else within the budget, else the smallest.

    Accuracy is that on the search split; among equals the smaller file is better.
    """

    def merit(variant: Variant) -> tuple[bool, bool, float, int]:
        lost = 0.0 if variant.drop is None else variant.drop.points
        met = variant.budget_met and variant.accuracy_met
        order = lost if variant.budget_met else float(variant.size)
        return met, variant.budget_met, -order, -variant.artifact.bytes

    return max(variants, key=merit)


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
    ) -> None:
        self._model, self._settings, self._data = model, settings, data
        self._ledger, self._dense, self._directory = ledger, dense, directory
        self._progress = progress
        self._prunable: Prunable | None = None
        self._dense_hits: npt.NDArray[np.bool_] | None = None
        self._budget = settings.budget_bytes(self._size(model, dense))
        self._refuse_less_than_nothing()

    def variant(self, precision: Precision) -> Variant:
        """The model in a precision, pruned if it must be."""
        twin, artifact = self._exported(self._model, precision, "dense")
        size = self._size(twin, artifact)
        if size <= self._budget:
            return self._judged(self._pruned(self._target(twin, artifact, size)), twin, artifact)
        quantized = precision is not Precision.FP32
        lost = self._drop(artifact) if quantized and self._settings.search.max_drop else None
        target = self._target(twin, artifact, size)
        target = replace(target, reserve=max(0.0, lost.points) if lost else 0.0)
        for _ in range(_ATTEMPTS):
            pruned = self._pruned(target)
            twin, artifact = self._exported(pruned.model, precision, "pruned")
            beyond = self._size(twin, artifact) - self._budget
            if beyond <= 0 or not pruned.outcome.met:
                break
            target = replace(target, budget_bytes=target.budget_bytes - beyond)
        return self._judged(replace(pruned, budget_bytes=self._budget), twin, artifact)

    def _exported(self, model: SViT, precision: Precision, name: str) -> tuple[SViT, Artifact]:
        if precision is Precision.FP32 and model is self._model:
            return model, self._dense
        twin = model
        if precision is not Precision.FP32:
            samples = self._samples() if precision is Precision.INT4 else None
            twin = quantize(model, precision.bits, samples, progress=self._progress)
        self._progress.stage(f"export, {precision.value}", 1)
        artifact = export_onnx(
            twin,
            self._directory / f"{name}-{precision.value}.onnx",
            batch=self._settings.batch,
            precision=precision,
            standard=self._settings.standard_ops,
        )
        self._progress.step()
        return twin, artifact

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
            progress=self._progress,
        )

    def _target(self, twin: SViT, artifact: Artifact, size: int) -> Target:
        bits = bits_of(twin, artifact.precision.bits)
        return Target(
            budget_bytes=self._budget,
            dense_bytes=size,
            weights=ShippedSize(twin, self._groups().groups, bits),
        )

    def _groups(self) -> Prunable:
        self._prunable = self._prunable or prunable_groups(self._model)
        return self._prunable

    def _judged(self, pruned: PruneResult, twin: SViT, artifact: Artifact) -> Variant:
        demanded = self._settings.search.max_drop is not None or self._settings.precision is None
        drop: PairedDrop | None = None
        if artifact.precision is not Precision.FP32 and demanded:
            drop = self._drop(artifact)
        elif pruned.outcome.steps:
            drop = pruned.outcome.steps[-1].drop
        elif artifact.precision is Precision.FP32 and not pruned.outcome.plan.kept:
            drop = PairedDrop(0, 0, len(search_images(self._data, self._settings.search)))
        elif demanded:
            drop = self._drop(artifact)
        if drop is not None and pruned.dense is None and self._dense_hits is not None:
            pruned = replace(pruned, dense=Accuracy.of(self._dense_hits))
        return Variant(
            pruned=pruned,
            twin=twin,
            artifact=artifact,
            size=self._size(twin, artifact),
            weight_bytes=_weight_bytes(twin, artifact),
            drop=drop,
            max_drop=self._settings.search.max_drop,
        )

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
            return measure_memory(artifact.path, threads=self._settings.threads).peak
        return artifact.bytes

    def _refuse_less_than_nothing(self) -> None:
        if self._settings.budget_on is not BudgetOn.RSS:
            return
        floor = measure_memory(self._dense.path, threads=self._settings.threads).imported
        if self._budget <= floor:
            raise SettingsError(
                f"a budget of {self._budget / 1e6:.1f} MB of resident memory: Python with "
                f"onnxruntime has {floor / 1e6:.1f} MB before any model; raise --budget-mb"
            )


def _weight_bytes(twin: SViT, artifact: Artifact) -> int:
    bits = bits_of(twin, artifact.precision.bits) if artifact.integer else {}
    return ShippedSize(twin, (), bits).bytes({})
