"""From settings to a pruned model: what it must come down to, the search, the cut, the export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import carried_out, check_recovery, settled
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.group_check import Prunable, prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, PolicyOutcome, Search
from primesvt_deploy.pruning.policies.prioritized import by_size
from primesvt_deploy.pruning.recovery.constant_channels import free_plan
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, HEAD_IMAGES, Recovery
from primesvt_deploy.pruning.search.channel_ranking import Choice
from primesvt_deploy.pruning.search.from_ledger import best_known
from primesvt_deploy.pruning.search.judge import Judge
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import HEAD, BuildSettings, SearchSettings
from primesvt_deploy.version import __version__

__all__ = [
    "PruneResult",
    "Target",
    "calibration_images",
    "make_judge",
    "prune",
    "question",
    "search_images",
]

_SIZE_MARGIN = 512
"""Bytes by which a file may differ from its prediction: lengths and shapes written in digits."""


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A pruned SViT and how it came about.

    Args:
        model: the cut model.
        outcome: the policy's plan, and whether the budget is met.
        groups: the dense model's groups.
        budget_bytes: what was asked for, in bytes of what the budget counts.
        dense: top-1 of the dense model on the search split; None where no search was needed.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    model: SViT
    outcome: PolicyOutcome
    groups: tuple[Group, ...]
    budget_bytes: int
    dense: Accuracy | None
    left: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a plan must come down to, and how much of the constraint it has for that.

    Args:
        budget_bytes: at most so many bytes of what the budget counts.
        dense_bytes: what the dense model has.
        weights: bytes of weights under any widths.
        reserve: points of the accuracy constraint that are spoken for.
        per_byte: what a byte of weights less takes off.
        margin: by how much a prediction may be short.
    """

    budget_bytes: int
    dense_bytes: int
    weights: ShippedSize
    reserve: float = 0.0
    per_byte: float = 1.0
    margin: int = _SIZE_MARGIN

    def bytes_of(self, plan: Plan, groups: Sequence[Group]) -> int:
        """Predicted bytes under a plan: the dense model's less the weights that leave."""
        if not plan.kept:
            return self.dense_bytes
        return self.dense_bytes - round(self.per_byte * self.leaving(plan, groups)) + self.margin

    def leaving(self, plan: Plan, groups: Sequence[Group]) -> int:
        """Bytes of weights that leave under a plan."""
        return self.weights.bytes({}) - self.weights.bytes(plan.widths(groups))


def prune(
    model: SViT,
    settings: BuildSettings,
    *,
    data: DataSet | None = None,
    ledger: Ledger | None = None,
    target: Target | None = None,
    prunable: Prunable | None = None,
    known: Ledger | None = None,
    progress: Progress = SILENT,
) -> PruneResult:
    """Prune `model` by the policy that the settings name until it fits the budget.

    Args:
        model: a trained SViT; it is not touched.
        settings: budget and constraint.
        data: default: the data bundled with the model.
        ledger: candidates already known; default: none.
        target: what it must come down to; default: the budget on the float32 file.
        prunable: the model's groups, if they are known already.
        known: answer from this ledger alone, without any evaluation (see `frontier`).
        progress: told of each step.

    Raises:
        PruningError: a cut changed the model's outputs.
        SettingsError: no target, and no ledger to take the smallest from.
    """
    prunable = prunable or prunable_groups(model)
    groups = prunable.groups
    if target is None:
        file_bytes = _export_aside(model).bytes
        target = Target(
            budget_bytes=settings.budget_bytes(file_bytes),
            dense_bytes=file_bytes,
            weights=ShippedSize(model, groups),
        )
    chosen = target

    def size_of(plan: Plan) -> int:
        return chosen.bytes_of(plan, groups)

    if target.dense_bytes <= target.budget_bytes:
        return _result(model, prunable, target, _unpruned(target.dense_bytes))
    search = settings.pruning
    if settings.smallest and known is None:
        raise SettingsError("no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both")
    if known is not None:
        splits = data or open_data(model, seed=search.seed)
        budget = None if settings.smallest else target.budget_bytes
        return _answered(model, search, prunable, splits, known, target, size_of, budget, progress)
    if search.max_drop is None and search.policy == "prioritized":
        return _by_size(model, search, prunable, target, size_of, data, progress)
    splits = data or open_data(model, seed=search.seed)
    check_recovery(model, splits, search)
    ledger = Ledger() if ledger is None else ledger
    return _searched(model, search, prunable, splits, ledger, target, size_of, progress)


def search_images(data: DataSet, settings: SearchSettings) -> ImageList:
    """The search images in the order that the seed fixes, as many as the settings say."""
    return data.search.shuffled(settings.seed).first(settings.search_images or len(data.search))


def calibration_images(data: DataSet, settings: SearchSettings) -> ImageList:
    """Images to recover pruned models on: of the train split, or of the search split without one.

    Held-out images are never among them.
    """
    source = data.train if len(data.train) >= CALIBRATION_IMAGES else data.search
    return source.shuffled(settings.seed).first(HEAD_IMAGES)


def question(model: SViT, data: DataSet, settings: SearchSettings) -> str:
    """Digest of all that an evaluated candidate depends on: what a ledger belongs to."""
    steps = repr(sorted(model.preprocessing.to_dict().items()))
    # All policies ask the same question of a plan: they share a ledger.
    asked = {name: value for name, value in settings.to_dict().items() if name != "policy"}
    return fingerprint(model.digest, data.digest, steps, repr(asked), __version__)


def _searched(
    model: SViT,
    settings: SearchSettings,
    prunable: Prunable,
    splits: DataSet,
    ledger: Ledger,
    target: Target,
    size_of: Callable[[Plan], int],
    progress: Progress,
) -> PruneResult:
    groups = prunable.groups
    images = search_images(splits, settings)
    recovery = Recovery(model, groups, calibration_images(splits, settings), settings.recover)
    judge = make_judge(model, groups, images, ledger, settings, recovery, target.reserve)
    progress.stage("dense accuracy", 1)
    dense = judge.dense()
    progress.step(str(dense))
    search = Search(judge=judge, settings=settings, size_of=size_of, progress=progress)
    outcome = POLICIES[settings.policy].search(search, target.budget_bytes)
    pruned, outcome = settled(model, groups, outcome, recovery, images, ledger, progress)
    return _result(pruned, prunable, target, outcome, dense)


def _answered(
    model: SViT,
    settings: SearchSettings,
    prunable: Prunable,
    splits: DataSet,
    known: Ledger,
    target: Target,
    size_of: Callable[[Plan], int],
    budget_bytes: int | None,
    progress: Progress,
) -> PruneResult:
    """The best of the candidates that a ledger knows."""
    groups = prunable.groups
    images = search_images(splits, settings)
    dense = known.find(Plan().digest, len(images))
    allowed = None if settings.max_drop is None else settings.max_drop - target.reserve
    outcome = best_known(
        known, images=len(images), size_of=size_of, budget_bytes=budget_bytes, allowed=allowed
    )
    recovery = Recovery(model, groups, calibration_images(splits, settings), settings.recover)
    pruned, outcome = settled(model, groups, outcome, recovery, images, known, progress)
    return _result(pruned, prunable, target, outcome, dense.accuracy if dense else None)


def _by_size(
    model: SViT,
    settings: SearchSettings,
    prunable: Prunable,
    target: Target,
    size_of: Callable[[Plan], int],
    data: DataSet | None,
    progress: Progress,
) -> PruneResult:
    """What meets the budget where no accuracy is demanded; recovered where there are data."""
    groups = prunable.groups
    recovery, free = None, Plan()
    if data is not None:
        recovery = Recovery(model, groups, calibration_images(data, settings), settings.recover)
        if "free" in recovery.steps:
            free = free_plan(model, groups, recovery, settings.channel_multiple)
    importance = {group.name: l2_importance(model.module, group) for group in groups}
    outcome = by_size(
        Choice(importance, settings.channel_multiple, free),
        groups,
        rates=settings.rates,
        budget_bytes=target.budget_bytes,
        size_of=size_of,
        free=free,
    )
    if recovery is not None and data is not None and HEAD in recovery.steps:
        images = search_images(data, settings)
        pruned, outcome = settled(model, groups, outcome, recovery, images, Ledger(), progress)
        return _result(pruned, prunable, target, outcome)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(model.config.example(1).shape, generator=generator)
    pruned = carried_out(model, groups, outcome.plan, noise, recovery)
    return _result(pruned, prunable, target, outcome)


def _result(
    model: SViT,
    prunable: Prunable,
    target: Target,
    outcome: PolicyOutcome,
    dense: Accuracy | None = None,
) -> PruneResult:
    return PruneResult(
        model=model,
        outcome=outcome,
        groups=prunable.groups,
        budget_bytes=target.budget_bytes,
        dense=dense,
        left=prunable.left,
    )


def make_judge(
    model: SViT,
    groups: Sequence[Group],
    images: ImageList,
    ledger: Ledger,
    settings: SearchSettings,
    recovery: Recovery,
    reserve: float = 0.0,
) -> Judge:
    """What judges plans on the search `images`, by the settings' constraint."""
    return Judge(
        model,
        groups,
        images,
        ledger,
        max_drop=100.0 if settings.max_drop is None else settings.max_drop,
        channel_multiple=settings.channel_multiple,
        reserve=reserve,
        recovery=recovery,
    )


def _unpruned(dense_bytes: int) -> PolicyOutcome:
    return PolicyOutcome(
        plan=Plan(),
        met=True,
        bytes=dense_bytes,
        drop_points=0.0,
        stopped_by="the dense model already fits the budget",
        steps=(),
    )


def _export_aside(model: SViT) -> Artifact:
    """Export only to learn the size of the file."""
    with tempfile.TemporaryDirectory() as directory:
        return export_onnx(model, Path(directory) / "dense.onnx")
