"""From the plan that was decided on to the model that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data import DataSet
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, Recovery
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.settings import HEAD, SearchSettings

__all__ = ["carried_out", "check_recovery", "few_inputs", "settled"]

_CUT_CHECK_IMAGES = 8


def check_recovery(model: SViT, data: DataSet, settings: SearchSettings) -> None:
    """Refuse, before any work, recovery that the model or the data do not allow.

    Raises:
        DataError: `head` without a train split: it would be judged on what it was fitted on.
        SettingsError: `head` for a user's own module, which names no classifier.
    """
    if HEAD not in settings.recover:
        return
    if not model.module.classifiers:
        raise SettingsError(
            f"{model.name} names no classifier to fit anew: leave {HEAD} out of --recover"
        )
    if len(data.train) < CALIBRATION_IMAGES:
        raise DataError(
            f"{data.name} has {len(data.train)} images to train on: fitting a classifier "
            f"(--recover {HEAD}) needs {CALIBRATION_IMAGES} that nothing is judged on; leave it "
            "out, or pass an ImageFolder with train/ beside val/, or an .npz with train_images "
            "and train_labels"
        )


def few_inputs(images: ImageList) -> torch.Tensor:
    """Samples to check a cut on: images `[N, C, H, W]`, frames `[T, N, C, H, W]`."""
    return time_first(torch.from_numpy(images.inputs(0, min(_CUT_CHECK_IMAGES, len(images)))))


def carried_out(
    model: SViT,
    groups: Sequence[Group],
    plan: Plan,
    few: torch.Tensor,
    recovery: Recovery | None = None,
    *,
    head: bool = False,
) -> SViT:
    """The recovered and cut model, once it is seen to equal the masked one on a `few` inputs.

    `head`: with the classifier fitted anew as well.

    Raises:
        PruningError: it does not.
    """
    if not plan.kept:
        return model
    masked = recovery.recovered(plan, head=head) if recovery else mask(model.module, groups, plan)
    smaller = cut(masked, groups, plan)
    check_cut(masked, smaller, few)
    return model.with_module(smaller)


def settled(
    model: SViT,
    groups: Sequence[Group],
    outcome: PolicyOutcome,
    recovery: Recovery,
    images: ImageList,
    ledger: Ledger,
    progress: Progress = SILENT,
) -> tuple[SViT, PolicyOutcome]:
    """The model of the plan that was decided on, and the outcome as it is for that model.

    Where `head` is among the steps its classifier is fitted anew, and stays so unless the model
    then loses more on the search `images` than the candidate did: the constraint is kept. The
    outcome gets a last step with what it loses.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        outcome: of a policy, or of a ledger.
        recovery: of candidates.
        images: search images.
        ledger: what is known of the dense model and of the plan.
        progress: told of it.
    """
    plan, few = outcome.plan, few_inputs(images)
    if plan.kept:
        progress.stage("recovery and cut", 1)
    plain = carried_out(model, groups, plan, few, recovery)
    if HEAD not in recovery.steps or not plan.kept:
        return plain, outcome
    refitted = carried_out(model, groups, plan, few, recovery, head=True)
    hits = torch_hits(refitted, images, progress, "with its classifier fitted anew")
    known, dense = ledger.find(plan.digest, len(images)), ledger.find(Plan().digest, len(images))
    whole = known is not None and not known.stopped_early
    before = known.correct if known and whole else int(torch_hits(plain, images).sum())
    right = int(hits.sum())
    told = f"with its classifier fitted anew {right} of {len(hits)} search images are right, "
    told += f"{before} without that"
    if right < before:
        progress.message(f"{told}: left as it was")
        return plain, outcome
    progress.message(told)
    drop = PairedDrop.of(dense.hits() if dense else torch_hits(model, images), hits)
    step = Candidate(
        plan=plan.digest,
        limit=len(images),
        step=HEAD,
        correct=right,
        lost=drop.lost,
        gained=drop.gained,
        n=len(hits),
        stopped_early=False,
        seconds=0.0,
    )
    return refitted, replace(outcome, drop_points=drop.points, steps=(*outcome.steps, step))
