"""Apply a plan: from the channels that were decided on to the recovered and cut model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.settings import HEAD

__all__ = ["AppliedPlan", "apply_plan", "recover_and_cut"]

_CUT_CHECK_IMAGES = 8


@dataclass(frozen=True)
class AppliedPlan:
    """The model that a plan leaves.

    Args:
        model: recovered and cut.
        refitted: outcome on the search images with the refitted classifier, where that was kept.
    """

    model: SViT
    refitted: Candidate | None = None


def apply_plan(context: SearchContext, plan: Plan) -> AppliedPlan:
    """Recover and cut the dense model by a plan that was decided on.

    If `head` is among the recovery steps, the classifier is refitted, and stays so unless the
    model then loses more on the search images than before: the constraint is kept.

    Raises:
        PruningError: the cut model does not equal the masked one.
    """
    if not plan.kept:
        return AppliedPlan(context.model)
    if context.images is not None:
        context.recovery.prepare(context.progress)
    context.progress.stage("recovery and cut", 1)
    plain = recover_and_cut(context, plan)
    context.progress.step()
    if context.images is None or HEAD not in context.recovery.steps:
        return AppliedPlan(plain)
    context.progress.stage("refitting the classifier", 1)
    refitted = recover_and_cut(context, plan, head=True)
    context.progress.step()
    candidate = _judged(context, plan, plain, refitted)
    return AppliedPlan(plain) if candidate is None else AppliedPlan(refitted, candidate)


def recover_and_cut(context: SearchContext, plan: Plan, *, head: bool = False) -> SViT:
    """The recovered and cut model, checked to equal the masked one.

    Args:
        context: has the dense model, its groups, and images to calibrate on (without any the plan
            is cut as it is).
        plan: channels that stay.
        head: refit the classifier as well.

    Raises:
        PruningError: the cut model does not equal the masked one.
    """
    model, groups = context.model, context.prunable.groups
    if context.images is None:
        masked = mask(model.module, groups, plan)
    else:
        masked = context.recovery.recovered(plan, head=head, progress=context.progress)
    smaller = cut(masked, groups, plan)
    check_cut(masked, smaller, _cut_check_inputs(context))
    return model.with_module(smaller)


def _cut_check_inputs(context: SearchContext) -> torch.Tensor:
    """Samples to check a cut on: images `[N, C, H, W]`, frames `[T, N, C, H, W]`."""
    if context.images is None:
        generator = torch.Generator().manual_seed(context.settings.seed)
        return torch.randn(context.model.config.example(1).shape, generator=generator)
    images = context.images.search
    return time_first(torch.from_numpy(images.inputs(0, min(_CUT_CHECK_IMAGES, len(images)))))


def _judged(context: SearchContext, plan: Plan, plain: SViT, refitted: SViT) -> Candidate | None:
    """The outcome with the refitted classifier; None if fewer images are classified rightly."""
    images, progress = context.image_sets().search, context.progress
    hits_of = partial(torch_hits, images=images, progress=progress, device=context.device)
    hits = hits_of(refitted, stage="with its classifier refitted")
    cached = context.ledger.find(plan.digest, len(images))
    dense = context.ledger.hits(Plan().digest, len(images))
    if cached and cached.whole:
        before = cached.correct
    else:
        before = int(hits_of(plain, stage="with its classifier as it was").sum())
    after = int(hits.sum())
    found = f"with its classifier refitted {after} of {len(hits)} search images are right, "
    found += f"{before} without that"
    if after < before:
        progress.message(f"{found}: left as it was")
        return None
    progress.message(found)
    if len(dense) < len(images):
        dense = hits_of(context.model, stage="dense accuracy")
    drop = PairedDrop.of(dense, hits)
    return Candidate(
        plan=plan.digest,
        limit=len(images),
        step=HEAD,
        correct=after,
        lost=drop.lost,
        gained=drop.gained,
        n=len(hits),
        seconds=0.0,
    )
