"""The main job: analyse, prune, export, verify, bundle; each stage hands a value to the next."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from primesvt_deploy.analysis.cost import Cost, ShippedSize, measure_cost
from primesvt_deploy.analysis.firing import FiringRate, measure_firing_rates
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_file import Artifact, export_onnx
from primesvt_deploy.config import BuildSettings, Precision, SearchSettings
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
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.stats import Accuracy
from primesvt_deploy.version import __version__

__all__ = [
    "Analysis",
    "PruneResult",
    "Target",
    "analyze",
    "export",
    "prune",
    "question",
    "search_images",
]

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
        budget_bytes: what was asked for, in bytes of what the budget counts.
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
    target: Target | None = None,
    prunable: Prunable | None = None,
    progress: Progress = SILENT,
) -> PruneResult:
    """Prune `model` by the prioritized policy until it fits the budget.

    Args:
        model: a trained SViT; it is not touched.
        settings: budget and constraint.
        data: default: the data bundled with the model.
        ledger: candidates already known; default: none.
        target: what it must come down to; default: the budget on the float32 file.
        prunable: the model's groups, if they are known already.
        progress: told of each step.

    Raises:
        PruningError: a cut changed the model's outputs.
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

    budget = target.budget_bytes
    if target.dense_bytes <= budget:
        return PruneResult(
            model=model,
            outcome=_unpruned(target.dense_bytes),
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
        target.reserve,
        progress,
    )


def export(
    model: SViT,
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: Precision | str = Precision.FP32,
    samples: torch.Tensor | None = None,
    standard: bool = False,
) -> Artifact:
    """Write `model` as one ONNX file; see `artifact.onnx_file.export_onnx`.

    Args:
        model: what to export.
        path: the file.
        batch: a fixed batch size, or None for any.
        precision: `fp32`, `int8` or `int4`.
        samples: preprocessed samples to calibrate on; see `quantization.quantize`.
        standard: standard ONNX operators only.
    """
    chosen = Precision(precision)
    twin = model if chosen is Precision.FP32 else quantize(model, chosen.bits, samples)
    return export_onnx(twin, path, batch=batch, precision=chosen, standard=standard)


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
    reserve: float,
    progress: Progress,
) -> PruneResult:
    groups = prunable.groups
    judge = _judge(model, groups, images, ledger, settings, reserve)
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
    reserve: float = 0.0,
) -> Judge:
    return Judge(
        model,
        groups,
        images,
        ledger,
        max_drop=100.0 if settings.max_drop is None else settings.max_drop,
        channel_multiple=settings.channel_multiple,
        reserve=reserve,
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
