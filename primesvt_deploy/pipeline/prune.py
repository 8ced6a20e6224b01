"""`prune`: choose a plan (by search, from a ledger, or by sizes alone) and apply it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead import pruning_ahead
from primesvt_deploy.pipeline.apply_plan import AppliedPlan, apply_plan
from primesvt_deploy.pipeline.budget import Goal, SizeTarget
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.dense_accuracy import measure_dense
from primesvt_deploy.pipeline.image_sets import decoded_once
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pipeline.workers import driver_device
from primesvt_deploy.progress import AUTOMATIC, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, PolicyOutcome, Search
from primesvt_deploy.pruning.policies.prioritized import by_size
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.from_ledger import best_in_ledger
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.settings import BuildSettings, SearchSettings
from primesvt_deploy.summary import Shown, Summary, megabytes, points_lost, shortened
from primesvt_deploy.summary.charts import kept_channels

__all__ = ["PruneResult", "choose_from_ledger", "choose_plan", "fitting", "make_search", "prune"]


@dataclass(frozen=True, kw_only=True, repr=False)
class PruneResult(Shown):
    """A pruned SViT and how it came about.

    Args:
        outcome: the policy's plan, and its prediction.
        applied: the cut model.
        groups: the dense model's groups.
        budget_bytes: the requested bytes of what the budget counts.
        dense: top-1 of the dense model on the search images that it was evaluated on; None where no
            search was needed.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    outcome: PolicyOutcome
    applied: AppliedPlan
    groups: tuple[Group, ...]
    budget_bytes: int
    dense: Accuracy | None
    left: Mapping[str, str]

    @property
    def model(self) -> SViT:
        """The cut model."""
        return self.applied.model

    @property
    def steps(self) -> tuple[Candidate, ...]:
        """Accepted candidates, in order; the last one is the model itself."""
        refitted = self.applied.refitted
        return self.outcome.steps if refitted is None else (*self.outcome.steps, refitted)

    def _summary(self) -> Summary:
        outcome, count = self.outcome, sum(p.numel() for p in self.model.module.parameters())
        widths = outcome.plan.widths(self.groups)
        met = "within" if outcome.met else "NOT within"
        kept = f"{sum(widths.values()):,} of {sum(group.width for group in self.groups):,}"
        narrower = sum(widths[group.name] < group.width for group in self.groups)
        rows = [
            ("file", f"{megabytes(outcome.bytes)} predicted, {met} {megabytes(self.budget_bytes)}"),
            ("parameters", f"{count:,} are left"),
            ("channels", f"{kept} are left, in {narrower} of {len(self.groups)} groups fewer"),
            ("stopped by", shortened([outcome.stopped_by])),
        ]
        if outcome.drop_points is not None:
            dense = f", the dense model has {self.dense}" if self.dense else ""
            rows.append(("search top-1", f"{points_lost(outcome.drop_points)}{dense}"))
        if self.left:
            rows.append(("left alone", shortened(list(self.left))))
        kept_of = {group.name: (widths[group.name], group.width) for group in self.groups}
        return Summary(
            f"PruneResult of {self.model.name}", tuple(rows), partial(kept_channels, kept_of)
        )


@drawn_by_default
def prune(
    model: SViT,
    settings: BuildSettings,
    *,
    data: DataSet | None = None,
    ledger: Ledger | None = None,
    progress: Progress = AUTOMATIC,
) -> PruneResult:
    """Prune `model` by the policy that the settings name until its float32 file fits the budget.

    Args:
        model: a trained SViT; it is not touched.
        settings: budget and constraint.
        data: default: the data bundled with the model.
        ledger: candidates evaluated before; default: none.
        progress: gets each step; default: a bar on a terminal or in a notebook, elsewhere nothing;
            `SILENT`: nothing.

    Raises:
        DataError: no data, or too few for the requested recovery.
        PruningError: a cut changed the model's outputs.
        SettingsError: no target, or a device that is not there.
    """
    driver_device(settings.compute)
    progress.stage("export of the dense model", 1)
    with tempfile.TemporaryDirectory() as directory:
        dense_bytes = export_onnx(model, Path(directory) / "dense.onnx").bytes
    progress.step(f"{millions(dense_bytes)[0]} MB")
    search = settings.pruning
    budget_bytes = settings.budget_bytes(dense_bytes)
    if dense_bytes > budget_bytes and settings.smallest:
        raise SettingsError("no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both")
    if data is None and dense_bytes > budget_bytes and not decides_by_size(search):
        data = open_data(model, seed=search.seed)
    if data is not None:
        data = decoded_once(data, search, None, progress)
    ahead = pruning_ahead if dense_bytes > budget_bytes else None
    with search_context(
        model,
        search,
        data,
        ledger=ledger,
        compute=settings.compute,
        progress=progress,
        ahead=ahead,
    ) as context:
        size = SizeTarget(
            budget_bytes=budget_bytes,
            dense_bytes=dense_bytes,
            weights=ShippedSize(model, context.prunable.groups),
            groups=context.prunable.groups,
        )
        if dense_bytes <= budget_bytes:
            return _result(context, size, fitting(dense_bytes))
        outcome = choose_plan(context, Goal(size, AccuracyConstraint(search.max_drop)))
        return _result(context, size, outcome)


def choose_plan(context: SearchContext, goal: Goal) -> PolicyOutcome:
    """The plan of the policy that the settings name; by sizes alone where no accuracy is demanded.

    Args:
        context: of the search.
        goal: bytes to come down to, and points that may be lost on the way.
    """
    settings, size = context.settings, goal.size
    if decides_by_size(settings):
        if context.images is not None:
            context.recovery.prepare(context.progress)
        return by_size(
            context.space,
            rates=settings.rates,
            budget_bytes=size.budget_bytes,
            size_of=size.predicted_bytes,
        )
    search = make_search(context, goal.accuracy, size.predicted_bytes)
    outcome = POLICIES[settings.policy].search(search, size.budget_bytes)
    context.judge.release()  # fine-tuning and quantization follow, and need the memory
    return outcome


def choose_from_ledger(context: SearchContext, goal: Goal, *, smallest: bool) -> PolicyOutcome:
    """The best plan among the candidates that the ledger has; none is evaluated.

    Args:
        context: of the search that filled the ledger.
        goal: bytes to come down to, and points that may be lost on the way.
        smallest: no budget: as few bytes as the accuracy constraint allows.
    """
    accuracy = goal.accuracy
    return best_in_ledger(
        context.ledger,
        groups=context.prunable.groups,
        images=len(context.image_sets().search),
        size_of=goal.size.predicted_bytes,
        budget_bytes=None if smallest else goal.size.budget_bytes,
        allowed=None if accuracy.max_drop is None else accuracy.allowed,
    )


def make_search(
    context: SearchContext, constraint: AccuracyConstraint, size_of: Callable[[Plan], int]
) -> Search:
    """A policy's search; the dense model's accuracy is looked at first.

    Args:
        context: of the search.
        constraint: accuracy that a plan must keep.
        size_of: predicted bytes under a plan.
    """
    measure_dense(context)
    context.recovery.prepare(context.progress)
    return Search(
        judge=context.judge,
        space=context.space,
        settings=context.settings,
        constraint=constraint,
        size_of=size_of,
        progress=context.progress,
    )


def fitting(dense_bytes: int) -> PolicyOutcome:
    """The outcome where the dense model fits the budget as it is."""
    return PolicyOutcome(
        plan=Plan(),
        met=True,
        bytes=dense_bytes,
        drop_points=0.0,
        stopped_by="the dense model already fits the budget",
        steps=(),
    )


def decides_by_size(settings: SearchSettings) -> bool:
    """Whether sizes alone decide: the prioritized policy where no accuracy is demanded."""
    return settings.max_drop is None and settings.policy == "prioritized"


def _result(context: SearchContext, size: SizeTarget, outcome: PolicyOutcome) -> PruneResult:
    images = context.images
    dense = context.ledger.find(Plan().digest, len(images.search)) if images else None
    return PruneResult(
        outcome=outcome,
        applied=apply_plan(context, outcome.plan),
        groups=context.prunable.groups,
        budget_bytes=size.budget_bytes,
        dense=dense.accuracy if dense else None,
        left=context.prunable.left,
    )
