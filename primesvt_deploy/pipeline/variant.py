"""One precision of a build: plan, cut, recover, fine-tune, quantize, export, measure.

With less than float32 the dense model is quantized first. If it fits the budget, nothing is
pruned; else the drop that quantization costs on the search images is reserved from the accuracy
constraint, the rest is the policy's, and the pruned model is quantized again. The artifact itself
is measured: if it is beyond the budget after all, the policy has to save as much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.native_export import NativeArtifact
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead_of_build import after_whole
from primesvt_deploy.pipeline.anytime import Stage
from primesvt_deploy.pipeline.apply_plan import AppliedPlan, apply_plan
from primesvt_deploy.pipeline.budget import Goal, Measurement, SizeTarget, weight_bytes
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.dense import DenseModel
from primesvt_deploy.pipeline.ladder import Ladder
from primesvt_deploy.pipeline.prune import choose_from_ledger, choose_plan, fitting
from primesvt_deploy.pipeline.ship import Shipped, ship
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.settings import Precision
from primesvt_deploy.training.finetune import Finetuned, finetune

__all__ = ["PLAN_STAGE", "Variant", "VariantFiles", "best", "make_variant"]

PLAN_STAGE = "plan from the frontier"
"""Stage in which a plan is chosen among candidates that were evaluated before."""

_ATTEMPTS = 4


@dataclass(frozen=True)
class VariantFiles:
    """Directories for the files of variants.

    Args:
        artifacts: directory of exported candidates.
        checkpoints: directory where fine-tuning keeps its progress.
    """

    artifacts: Path
    checkpoints: Path


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The model in one precision, with the result of every stage.

    Args:
        predicted: the policy's plan, and its prediction.
        applied: the cut and recovered model.
        finetuned: how that was trained on; None: not at all.
        model: the float32 model that is shipped, at its number of timesteps.
        quantized: what the artifact computes, in torch; `model` itself for float32.
        exported: the ONNX artifact, of all timesteps.
        joined: the ONNX artifact with the stages that are shipped; None: there are none.
        native: the file of the native engine; None: that was not requested.
        stages: that may run before the whole model in the files.
        ladder: which of them do, and how sure they must be; None: that is not decided.
        file_bytes: of the model file; of the larger one, where two are shipped.
        size: how many bytes of what the budget counts a plan is predicted to have.
        measured: its bytes and its drop.
        budget_bytes: of what the budget counts.
        max_drop: points that may be lost; None: any.
        dense: top-1 of the dense model on the search images that it was evaluated on; None where
            nothing was.
    """

    predicted: PolicyOutcome
    applied: AppliedPlan
    finetuned: Finetuned | None
    model: SViT
    quantized: SViT
    exported: Artifact
    native: NativeArtifact | None
    joined: Artifact | None = None
    stages: tuple[Stage, ...] = ()
    ladder: Ladder | None = None
    file_bytes: int
    size: SizeTarget
    measured: Measurement
    budget_bytes: int
    max_drop: float | None
    dense: Accuracy | None

    @property
    def described(self) -> SViT:
        """The float32 model with the preprocessing of what is shipped."""
        return replace(self.model, preprocessing=self.quantized.preprocessing)

    @property
    def steps(self) -> tuple[Candidate, ...]:
        """Accepted candidates, in order; the last one is the applied plan itself."""
        refitted = self.applied.refitted
        return self.predicted.steps if refitted is None else (*self.predicted.steps, refitted)

    @property
    def budget_met(self) -> bool:
        """Whether it is within the budget, as measured."""
        return self.measured.bytes <= self.budget_bytes

    @property
    def accuracy_met(self) -> bool:
        """Whether it is within the accuracy constraint, on the search images."""
        allowed, drop = self.max_drop, self.measured.drop
        return allowed is None or drop is None or drop.points <= allowed

    @property
    def stopped_by(self) -> str:
        """One sentence: why pruning ended where it did, as far as measuring confirms it."""
        if self.budget_met and not self.predicted.met:
            return "the budget is met"
        return self.predicted.stopped_by


def best(variants: Sequence[Variant], *, smallest: bool = False) -> Variant:
    """The most accurate within budget and constraint, else within the budget, else the smallest.

    Accuracy is that on the search images; among equals the smaller file is better. With `smallest`
    it is the smallest that keeps the constraint.
    """

    def merit(variant: Variant) -> tuple[bool, bool, float, int]:
        measured = variant.measured
        lost = 0.0 if measured.drop is None else measured.drop.points
        met = variant.budget_met and variant.accuracy_met
        order = lost if variant.budget_met and not smallest else float(measured.bytes)
        return met, variant.budget_met, -order, -variant.file_bytes

    return max(variants, key=merit)


def make_variant(
    context: BuildContext, dense: DenseModel, precision: Precision, files: VariantFiles
) -> Variant:
    """The model in a precision, pruned if it must be.

    Args:
        context: of the build.
        dense: the dense float32 model.
        precision: of the weights.
        files: where artifacts and checkpoints go.

    Raises:
        DeployError: a stage that cannot be done; each says which.
    """
    whole = ship(context, dense, context.model, precision, files.artifacts / "dense")
    cost = _drop(context, dense, whole.artifact) if _changes_outputs(context, precision) else None
    size = _size_target(context, dense, whole)
    allowed, finetuned = context.settings.search.max_drop, context.settings.finetune
    fits = whole.bytes <= dense.budget.bytes
    speed = dense.seconds_an_image
    context.progress.plan(after_whole(context, precision, prunes=not fits, artifact_s=speed))
    if cost is not None and allowed is not None and cost.points > allowed and not finetuned:
        lossy = _too_lossy(context, dense, whole, cost)
        return _unpruned(context, dense, whole, cost, lossy, size)
    if fits:
        if finetuned:
            context.progress.message("nothing has to leave, so nothing is fine-tuned")
        return _unpruned(context, dense, whole, cost, fitting(whole.bytes), size)
    goal = _first_goal(context, size, cost)
    for _ in range(_ATTEMPTS):
        variant = _pruned(context, dense, goal, precision, files)
        again = dense.budget.corrected(goal, variant.predicted, variant.measured)
        if again is None:
            break
        goal = again
        context.progress.plan(after_whole(context, precision, prunes=True, artifact_s=speed))
    return variant


def _pruned(
    context: BuildContext, dense: DenseModel, goal: Goal, precision: Precision, files: VariantFiles
) -> Variant:
    """Every stage once, towards one goal."""
    predicted = _predicted(context, goal)
    applied = apply_plan(context.search, predicted.plan)
    finetuned = _finetuned(context, applied.model, predicted.plan, files.checkpoints)
    trained = applied.model if finetuned is None else finetuned.model
    shipped = ship(context, dense, trained, precision, files.artifacts / "pruned")
    if _changes_outputs(context, precision) or finetuned is not None:
        drop = _drop(context, dense, shipped.artifact)
    else:
        drop = _drop_of_pruning(context, dense, shipped.artifact, predicted, applied)
    return _variant(context, dense, shipped, drop, predicted, applied, goal.size, finetuned)


def _unpruned(
    context: BuildContext,
    dense: DenseModel,
    whole: Shipped,
    cost: PairedDrop | None,
    predicted: PolicyOutcome,
    size: SizeTarget,
) -> Variant:
    """The dense model in a precision, as it is."""
    applied = AppliedPlan(context.model)
    if cost is None and not _changes_outputs(context, whole.artifact.precision):
        cost = PairedDrop(0, 0, len(context.images.search))
    return _variant(context, dense, whole, cost, predicted, applied, size)


def _variant(
    context: BuildContext,
    dense: DenseModel,
    shipped: Shipped,
    drop: PairedDrop | None,
    predicted: PolicyOutcome,
    applied: AppliedPlan,
    size: SizeTarget,
    finetuned: Finetuned | None = None,
) -> Variant:
    weights = weight_bytes(shipped.quantized, shipped.artifact)
    return Variant(
        predicted=predicted,
        applied=applied,
        finetuned=finetuned,
        model=shipped.model,
        quantized=shipped.quantized,
        exported=shipped.artifact,
        native=shipped.native,
        stages=shipped.stages,
        file_bytes=shipped.file_bytes,
        size=size,
        measured=Measurement(shipped.bytes, weights, drop),
        budget_bytes=shipped.bytes if context.settings.smallest else dense.budget.bytes,
        max_drop=context.settings.search.max_drop,
        dense=dense.accuracy,
    )


def _size_target(context: BuildContext, dense: DenseModel, whole: Shipped) -> SizeTarget:
    """The budget, and bytes under any plan, in the precision of a whole model."""
    groups = context.search.prunable.groups
    weights = ShippedSize(whole.quantized, groups, whole.artifact.weight_bits)
    return dense.budget.target(whole.bytes, weights, groups)


def _first_goal(context: BuildContext, size: SizeTarget, cost: PairedDrop | None) -> Goal:
    """The budget, and of the accuracy constraint what quantization leaves."""
    # What training makes up for need not be reserved.
    reserved = max(0.0, cost.points) if cost and not context.settings.finetune else 0.0
    return Goal(size, AccuracyConstraint(context.search.settings.max_drop, reserved))


def _predicted(context: BuildContext, goal: Goal) -> PolicyOutcome:
    if context.from_ledger:
        context.progress.stage(PLAN_STAGE, 1)
        found = choose_from_ledger(context.search, goal, smallest=context.settings.smallest)
        context.progress.step()
        return found
    if context.settings.smallest:
        raise SettingsError("no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both")
    return choose_plan(context.search, goal)


def _finetuned(
    context: BuildContext, pruned: SViT, plan: Plan, checkpoints: Path
) -> Finetuned | None:
    settings = context.settings.finetune
    if settings is None or not plan.kept:
        return None
    return finetune(
        pruned,
        context.model,
        context.images.data.train,
        settings,
        checkpoint=checkpoints / f"finetune-{plan.digest}.pt",
        compute=context.settings.compute,
        device=context.device,
        session=context.search.session,
        progress=context.progress,
    )


def _too_lossy(
    context: BuildContext, dense: DenseModel, whole: Shipped, cost: PairedDrop
) -> PolicyOutcome:
    """The outcome where quantizing the dense model costs more than may be lost: no search helps."""
    steps, allowed = context.settings.ship_timesteps, context.settings.search.max_drop
    form = whole.artifact.precision.value + (f" at T = {steps}" if steps else "")
    return PolicyOutcome(
        plan=Plan(),
        met=whole.bytes <= dense.budget.bytes,
        bytes=whole.bytes,
        drop_points=0.0,
        stopped_by=f"{form} alone, without pruning, loses {cost.points:.2f} points on the search "
        f"split, more than {allowed:g}",
        steps=(),
    )


def _changes_outputs(context: BuildContext, precision: Precision) -> bool:
    """Whether the shipped model classifies other than its plan's candidate, without training."""
    return precision is not Precision.FP32 or context.settings.ship_timesteps is not None


def _drop(context: BuildContext, dense: DenseModel, artifact: Artifact) -> PairedDrop | None:
    """Top-1 that an artifact loses on the search images; None if no accuracy is demanded."""
    settings = context.settings
    demanded = settings.search.max_drop is not None or settings.precision is None
    return dense.drop(artifact) if demanded else None


def _drop_of_pruning(
    context: BuildContext,
    dense: DenseModel,
    artifact: Artifact,
    predicted: PolicyOutcome,
    applied: AppliedPlan,
) -> PairedDrop | None:
    """The drop of a float32 artifact at its own T: that of the last candidate accepted."""
    if applied.refitted is not None:
        return applied.refitted.drop
    if not predicted.plan.kept:
        return PairedDrop(0, 0, len(context.images.search))
    if context.settings.precision is None:
        # Several precisions are compared by accuracy: one decided on few images tells too little.
        last = predicted.steps[-1] if predicted.steps else None
        return last.drop if last is not None and last.whole else dense.drop(artifact)
    return predicted.steps[-1].drop if predicted.steps else None
