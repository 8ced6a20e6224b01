"""The budget: what it counts, what a plan must come down to, and corrections after measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.native_export import NativeArtifact
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.measure.native_memory import native_peak_bytes
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.settings import BudgetOn, BuildSettings

__all__ = [
    "Budget",
    "Goal",
    "Measurement",
    "SizeTarget",
    "budget_of",
    "counted_bytes",
    "file_bytes",
    "weight_bytes",
]

_SIZE_MARGIN = 512
"""Bytes by which a file may differ from its prediction: lengths and shapes written in digits."""
_PROCESSES = 3
_RSS_PER_BYTE = 2.5
"""Resident bytes for each byte of weights, to begin with: a file is read, unpacked and packed."""
_RSS_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class SizeTarget:
    """Bytes that a plan must come down to, and how they are predicted.

    Args:
        budget_bytes: at most so many bytes of what the budget counts.
        dense_bytes: of the dense model.
        weights: bytes of weights under any widths.
        groups: the dense model's groups.
        per_byte: what a byte of weights less takes off.
        margin: by how much a prediction may be short, in bytes.
    """

    budget_bytes: int
    dense_bytes: int
    weights: ShippedSize
    groups: Sequence[Group]
    per_byte: float = 1.0
    margin: int = _SIZE_MARGIN

    def predicted_bytes(self, plan: Plan) -> int:
        """Bytes under a plan: the dense model's less the weights that leave."""
        if not plan.kept:
            return self.dense_bytes
        return self.dense_bytes - round(self.per_byte * self.leaving_bytes(plan)) + self.margin

    def leaving_bytes(self, plan: Plan) -> int:
        """Bytes of weights that leave under a plan."""
        return self.weights.bytes({}) - self.weights.bytes(plan.widths(self.groups))


@dataclass(frozen=True)
class Goal:
    """Size and accuracy that a plan must reach.

    Args:
        size: bytes to come down to.
        accuracy: points that may be lost on the way.
    """

    size: SizeTarget
    accuracy: AccuracyConstraint


@dataclass(frozen=True)
class Measurement:
    """An artifact as measured.

    Args:
        bytes: of what the budget counts.
        weight_bytes: of weights, scales and biases.
        drop: top-1 lost against the dense float32 model on the search images; None where nothing
            was evaluated.
    """

    bytes: int
    weight_bytes: int
    drop: PairedDrop | None


@dataclass(frozen=True)
class Budget:
    """The budget of a build.

    Args:
        settings: what it counts, and the targets.
        bytes: at most so many; 0 where the smallest model is wanted.
    """

    settings: BuildSettings
    bytes: int

    def target(self, dense_bytes: int, weights: ShippedSize, groups: Sequence[Group]) -> SizeTarget:
        """The bytes that a plan must come down to, and how they are predicted.

        Args:
            dense_bytes: of what the budget counts, of the dense model in the wanted precision.
            weights: of that model.
            groups: its prunable groups.
        """
        target = SizeTarget(
            budget_bytes=self.bytes, dense_bytes=dense_bytes, weights=weights, groups=groups
        )
        if self.settings.budget_on is BudgetOn.RSS:
            # The native engine reads weights where they lie in the file.
            per_byte = _RSS_PER_BYTE if self.settings.runtime.has_onnx else 1.0
            return replace(target, per_byte=per_byte, margin=0)
        return replace(target, margin=0) if self.settings.budget_on is BudgetOn.PARAMS else target

    def corrected(self, goal: Goal, predicted: PolicyOutcome, measured: Measurement) -> Goal | None:
        """The goal to set instead once the artifact of a plan is measured; None: leave it.

        Resident memory far from the budget corrects the bytes that a byte of weights takes off; an
        artifact beyond the budget lowers the target by as much; a drop beyond the constraint
        reserves as much of it.

        Args:
            goal: that the plan was decided for.
            predicted: the policy's outcome for it.
            measured: of the artifact that came of it.
        """
        leaving = goal.size.leaving_bytes(predicted.plan)
        if not leaving or self.settings.smallest:
            return None
        corrected = self._corrected_rate(goal.size, leaving, measured.bytes)
        if corrected is not None:
            return replace(goal, size=corrected)
        beyond = measured.bytes - self.bytes
        if beyond > 0:
            if not predicted.met:
                return None  # out of reach, and pruning less would only leave it further
            lower = replace(goal.size, budget_bytes=goal.size.budget_bytes - beyond)
            return replace(goal, size=lower)
        allowed, drop = self.settings.search.max_drop, measured.drop
        if drop is None or allowed is None or self.settings.finetune or drop.points <= allowed:
            return None
        reserved = goal.accuracy.reserved + drop.points - allowed
        return replace(goal, accuracy=replace(goal.accuracy, reserved=reserved))

    def _corrected_rate(self, size: SizeTarget, leaving: int, measured: int) -> SizeTarget | None:
        """The target with resident bytes per byte of weights as measured, where that matters."""
        saved, beyond = size.dense_bytes - measured, measured - self.bytes
        if self.settings.budget_on is not BudgetOn.RSS or saved <= 0:
            return None
        far = abs(beyond) > _RSS_TOLERANCE * (size.dense_bytes - self.bytes)
        rate = saved / leaving
        if far and abs(rate / size.per_byte - 1.0) > _RSS_TOLERANCE:
            return replace(size, per_byte=rate)
        return None


def counted_bytes(
    settings: BuildSettings, model: SViT, artifact: Artifact, native: NativeArtifact | None = None
) -> int:
    """Bytes of what the budget counts.

    Args:
        settings: what it counts.
        model: what the artifact computes.
        artifact: the exported ONNX file, which is shipped unless the runtime is native alone.
        native: the file of the native engine, if that is shipped.
    """
    if settings.budget_on is BudgetOn.PARAMS:
        return weight_bytes(model, artifact)
    if settings.budget_on is BudgetOn.FILE:
        return file_bytes(settings, artifact, native)
    peaks = [native_peak_bytes(native.path)] if native is not None else []
    if native is None or settings.runtime.has_onnx:
        peaks.append(_peak_bytes(artifact.path, settings.threads))
    return max(peaks)


def file_bytes(settings: BuildSettings, artifact: Artifact, native: NativeArtifact | None) -> int:
    """Bytes of the model file; of the larger one, where two are shipped."""
    if native is None:
        return artifact.bytes
    return max(native.bytes, artifact.bytes) if settings.runtime.has_onnx else native.bytes


def weight_bytes(model: SViT, artifact: Artifact) -> int:
    """Bytes of weights, scales and biases that an artifact stores."""
    return ShippedSize(model, (), artifact.weight_bits).bytes({})


def budget_of(settings: BuildSettings, dense_bytes: int, artifact: Artifact) -> Budget:
    """The budget of a build.

    Args:
        settings: budget and saving.
        dense_bytes: of what the budget counts, of the dense float32 model.
        artifact: of that model.

    Raises:
        SettingsError: less resident memory than Python with onnxruntime takes without a model.
    """
    budget = Budget(settings, settings.budget_bytes(dense_bytes))
    by_onnxruntime = settings.budget_on is BudgetOn.RSS and settings.runtime.has_onnx
    if by_onnxruntime and not settings.smallest:
        floor = measure_memory(artifact.path, threads=settings.threads).imported
        if budget.bytes <= floor:
            asked, taken = millions(budget.bytes, floor)
            raise SettingsError(
                f"a budget of {asked} MB of resident memory: Python with "
                f"onnxruntime has {taken} MB before any model; raise --budget-mb, or "
                "pass --runtime native"
            )
    return budget


def _peak_bytes(path: Path, threads: int) -> int:
    """Peak resident memory of a fresh process that runs one sample; the median of a few."""
    return int(median(measure_memory(path, threads=threads).peak for _ in range(_PROCESSES)))
