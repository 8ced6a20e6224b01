"""The main job: analyse, prune, export, verify, bundle; each stage hands a value to the next."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from primesvt_deploy.analysis.cost import (
    BYTES_PER_PARAMETER,
    Cost,
    ShippedSize,
    measure_cost,
)
from primesvt_deploy.analysis.firing import FiringRate, measure_firing_rates
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_file import Artifact, export_onnx
from primesvt_deploy.config import BuildSettings, SearchSettings
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.model import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.choice import Choice
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.judge import Judge
from primesvt_deploy.pruning.ledger import Ledger
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policy import PolicyOutcome, by_size, prioritized
from primesvt_deploy.pruning.robustness import Curve, measure_robustness
from primesvt_deploy.pruning.trial import Prunable, prunable_groups
from primesvt_deploy.stats import Accuracy
from primesvt_deploy.version import __version__

__all__ = ["Analysis", "PruneResult", "analyze", "export", "prune", "question", "search_images"]

_CUT_CHECK_IMAGES = 8
_FIRING_IMAGES = 256
_SIZE_MARGIN = 512
"""Bytes by which a file may differ from its prediction: lengths and shapes written in digits."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What can leave a model and what its absence costs.

    Args:
        cost: parameters and MACs.
        curves: robustness of every layer, largest first.
        firing: firing rates of every neuron layer, in the model's order.
        dense: top-1 of the dense model on the search split.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    cost: Cost
    curves: tuple[Curve, ...]
    firing: tuple[FiringRate, ...]
    dense: Accuracy
    left: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A pruned SViT and how it came about.

    Args:
        model: the cut model.
        outcome: the policy's plan, and whether the budget is met.
        curves: robustness of every layer; empty where the dense model fits the budget.
        groups: the dense model's groups.
        budget_bytes: what was asked for, in bytes of the model file.
        dense: top-1 of the dense model on the search split; None where no search was needed.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    model: SViT
    outcome: PolicyOutcome
    curves: tuple[Curve, ...]
    groups: tuple[Group, ...]
    budget_bytes: int
    dense: Accuracy | None
    left: Mapping[str, str]


def analyze(
    model: SViT,
    settings: SearchSettings | None = None,
    *,
    data: DataSet | None = None,
    progress: Progress = SILENT,
) -> Analysis:
    """Layer sizes, robustness curves and firing rates of `model`, on the search split.

    Args:
        model: a trained SViT.
        settings: rates, images, constraint; the defaults if None.
        data: default: the data bundled with the model.
        progress: told of each step.

    Raises:
        DataError: the model comes with no data and none is given.
    """
    chosen = settings or SearchSettings()
    splits = data or open_data(model, seed=chosen.seed)
    images = search_images(splits, chosen)
    prunable = prunable_groups(model)
    groups = prunable.groups
    judge = _judge(model, groups, images, Ledger(), chosen)
    progress.stage("dense accuracy", 1)
    dense = judge.dense()
    progress.step(str(dense))
    curves = measure_robustness(
        judge, rates=chosen.rates, limit=chosen.robustness_images, progress=progress
    )
    progress.stage("firing rates", 1)
    firing = measure_firing_rates(model, images.first(_FIRING_IMAGES))
    progress.step()
    return Analysis(
        cost=measure_cost(model), curves=curves, firing=firing, dense=dense, left=prunable.left
    )


def prune(
    model: SViT,
    settings: BuildSettings,
    *,
    data: DataSet | None = None,
    ledger: Ledger | None = None,
    dense_artifact: Artifact | None = None,
    progress: Progress = SILENT,
) -> PruneResult:
    """Prune `model` by the prioritized policy until its file fits the budget.

    Args:
        model: a trained SViT; it is not touched.
        settings: budget and constraint.
        data: default: the data bundled with the model.
        ledger: candidates already known; default: none.
        dense_artifact: the dense model's export, if there is one already.
        progress: told of each step.

    Raises:
        PruningError: a cut changed the model's outputs.
    """
    prunable = prunable_groups(model)
    groups = prunable.groups
    artifact = dense_artifact or _export_aside(model)
    sizes = ShippedSize(model, groups)
    overhead = artifact.bytes - BYTES_PER_PARAMETER * sizes.parameters({})

    def size_of(plan: Plan) -> int:
        if not plan.kept:
            return artifact.bytes
        shipped = BYTES_PER_PARAMETER * sizes.parameters(plan.widths(groups))
        return shipped + overhead + _SIZE_MARGIN

    budget = settings.budget_bytes(artifact.bytes)
    if artifact.bytes <= budget:
        return PruneResult(
            model=model,
            outcome=_unpruned(artifact.bytes),
            curves=(),
            groups=groups,
            budget_bytes=budget,
            dense=None,
            left=prunable.left,
        )
    if settings.search.max_drop is None:
        return _by_size(model, settings.search, prunable, budget, size_of)
    splits = data or open_data(model, seed=settings.search.seed)
    images = search_images(splits, settings.search)
    return _search(
        model,
        settings.search,
        prunable,
        images,
        Ledger() if ledger is None else ledger,
        budget,
        size_of,
        progress,
    )


def export(model: SViT, path: str | os.PathLike[str], *, batch: int | None = None) -> Artifact:
    """Write `model` as one ONNX file; see `artifact.onnx_file.export_onnx`."""
    return export_onnx(model, path, batch=batch)


def search_images(data: DataSet, settings: SearchSettings) -> ImageList:
    """The search images in the order that the seed fixes, as many as the settings say."""
    return data.search.shuffled(settings.seed).first(settings.search_images or len(data.search))


def question(model: SViT, data: DataSet, settings: SearchSettings) -> str:
    """Digest of all that an evaluated candidate depends on: what a ledger belongs to."""
    steps = repr(sorted(model.preprocessing.to_dict().items()))
    return fingerprint(model.digest, data.digest, steps, repr(settings.to_dict()), __version__)


def _search(
    model: SViT,
    settings: SearchSettings,
    prunable: Prunable,
    images: ImageList,
    ledger: Ledger,
    budget: int,
    size_of: Callable[[Plan], int],
    progress: Progress,
) -> PruneResult:
    groups = prunable.groups
    judge = _judge(model, groups, images, ledger, settings)
    progress.stage("dense accuracy", 1)
    dense = judge.dense()
    progress.step(str(dense))
    curves = measure_robustness(
        judge, rates=settings.rates, limit=settings.robustness_images, progress=progress
    )
    outcome = prioritized(judge, curves, budget_bytes=budget, size_of=size_of, progress=progress)
    few = time_first(torch.from_numpy(images.inputs(0, min(_CUT_CHECK_IMAGES, len(images)))))
    return PruneResult(
        model=_carried_out(model, groups, outcome.plan, few),
        outcome=outcome,
        curves=curves,
        groups=groups,
        budget_bytes=budget,
        dense=dense,
        left=prunable.left,
    )


def _by_size(
    model: SViT,
    settings: SearchSettings,
    prunable: Prunable,
    budget: int,
    size_of: Callable[[Plan], int],
) -> PruneResult:
    """What meets the budget where no accuracy is demanded."""
    groups = prunable.groups
    choice = Choice(model.module, groups, settings.channel_multiple)
    outcome = by_size(choice, groups, rates=settings.rates, budget_bytes=budget, size_of=size_of)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(model.config.example(1).shape, generator=generator)
    return PruneResult(
        model=_carried_out(model, groups, outcome.plan, noise),
        outcome=outcome,
        curves=(),
        groups=groups,
        budget_bytes=budget,
        dense=None,
        left=prunable.left,
    )


def _carried_out(model: SViT, groups: Sequence[Group], plan: Plan, few: torch.Tensor) -> SViT:
    """The cut model, once it is seen to equal the masked one on a `few` inputs."""
    if not plan.kept:
        return model
    module = cut(model.module, groups, plan)
    check_cut(mask(model.module, groups, plan), module, few)
    return model.with_module(module)


def _judge(
    model: SViT,
    groups: Sequence[Group],
    images: ImageList,
    ledger: Ledger,
    settings: SearchSettings,
) -> Judge:
    return Judge(
        model,
        groups,
        images,
        ledger,
        max_drop=100.0 if settings.max_drop is None else settings.max_drop,
        channel_multiple=settings.channel_multiple,
    )


def _unpruned(file_bytes: int) -> PolicyOutcome:
    return PolicyOutcome(
        plan=Plan(),
        met=True,
        bytes=file_bytes,
        drop_points=0.0,
        stopped_by="the dense model already fits the budget",
        steps=(),
    )


def _export_aside(model: SViT) -> Artifact:
    """Export only to learn the size of the file."""
    with tempfile.TemporaryDirectory() as directory:
        return export_onnx(model, Path(directory) / "dense.onnx")
