"""Judge candidate plans by accuracy on the search split, through the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.constant_channels import free_plan
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.channel_ranking import Choice
from primesvt_deploy.pruning.search.evaluator import Evaluator, Outcome
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger

__all__ = ["HOPELESS_Z", "Judge"]

HOPELESS_Z = 2.576
"""A candidate is given up once its drop exceeds the constraint by so many standard errors."""
_DIGITS = 9


class Judge:
    """Evaluates candidates once each and remembers them.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        images: the search split, in an order of which every prefix is a sample.
        ledger: where candidates are kept.
        max_drop: percentage points that a plan may lose.
        channel_multiple: channels (per head) are kept in multiples of this.
        reserve: points of them that are spoken for, such as by quantization.
        recovery: how candidates are recovered; None: not at all.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        images: ImageList,
        ledger: Ledger,
        *,
        max_drop: float,
        channel_multiple: int = 1,
        reserve: float = 0.0,
        recovery: Recovery | None = None,
    ) -> None:
        self.max_drop = max_drop
        self.allowed = max_drop - reserve
        self.model, self.groups = model, tuple(groups)
        self.images = len(images)
        self.recovery = recovery
        self._ledger = ledger
        self._evaluator = Evaluator(model, groups, images, recovery=recovery)
        self._channel_multiple = channel_multiple
        self._dense: npt.NDArray[np.bool_] | None = None
        self._reference: torch.Tensor | None = None

    def dense(self) -> Accuracy:
        """Accuracy of the dense model on all search images."""
        return Accuracy.of(self._dense_hits())

    @cached_property
    def free(self) -> Plan:
        """The plan without free channels; empty where they are not asked for."""
        if self.recovery is None or "free" not in self.recovery.steps:
            return Plan()
        return free_plan(self.model, self.groups, self.recovery, self._channel_multiple)

    def choice(self, importance: Mapping[str, torch.Tensor] | None = None) -> Choice:
        """A choice of channels by `importance`, by the L2 norm of their filters by default."""
        if importance is None:
            module = self.model.module
            importance = {group.name: l2_importance(module, group) for group in self.groups}
        return Choice(importance, self._channel_multiple, self.free)

    def pruned(self, plan: Plan, group: Group, rate: float) -> Plan:
        """`plan` with the share `rate` of one group's channels gone, least L2 norm first."""
        return self._by_norm.pruned(plan, group, rate)

    def start(self, step: str = "free") -> tuple[Plan, Candidate | None]:
        """The plan without free channels and its outcome, where that is within the constraint."""
        if not self.free.kept:
            return Plan(), None
        candidate = self.judge(self.free, step=step)
        return (self.free, candidate) if self.within(candidate) else (Plan(), None)

    def judge(
        self,
        plan: Plan,
        *,
        step: str,
        group: Group | None = None,
        rate: float = 0.0,
        limit: int | None = None,
        give_up: bool = True,
        divergence: bool = False,
    ) -> Candidate:
        """The outcome of `plan`, from the ledger where it is known.

        Args:
            plan: what to evaluate.
            step: who asks: `free`, `robustness`, or a policy.
            group: the group that was varied, if it is one.
            rate: at which rate.
            limit: images at most; default all.
            give_up: stop once the drop surely exceeds the constraint.
            divergence: the divergence from the dense model's probabilities is wanted.
        """
        count = min(limit or self.images, self.images)
        known = self._ledger.find(plan.digest, count)
        told = known is not None and known.divergence is not None and not known.stopped_early
        if known is not None and (told or not divergence):
            return known
        dense = self._dense_hits()
        reference = self._reference_logits(count) if divergence else self._reference
        started = time.perf_counter()

        def hopeless(flags: npt.NDArray[np.bool_]) -> bool:
            return PairedDrop.of(dense, flags).surely_exceeds(self.max_drop, HOPELESS_Z)

        found = self._evaluator.outcome(
            plan,
            limit=count,
            stop=hopeless if give_up else None,
            keep=[group] if group is not None else (),
        )
        drop = PairedDrop.of(dense, found.hits)
        candidate = Candidate(
            plan=plan.digest,
            limit=count,
            step=step,
            group=group.name if group is not None else "",
            rate=rate,
            kept=plan.widths([group])[group.name] if group is not None else 0,
            correct=int(found.hits.sum()),
            lost=drop.lost,
            gained=drop.gained,
            n=len(found.hits),
            stopped_early=len(found.hits) < count,
            seconds=round(time.perf_counter() - started, 3),
            divergence=_divergence(reference, found),
            channels=plan.packed(self.groups),
        )
        self._ledger.append(candidate)
        return candidate

    def within(self, candidate: Candidate) -> bool:
        """Whether a candidate was seen whole and keeps the accuracy constraint."""
        return not candidate.stopped_early and candidate.drop.points <= self.allowed

    @cached_property
    def _by_norm(self) -> Choice:
        return self.choice()

    def _dense_hits(self) -> npt.NDArray[np.bool_]:
        if self._dense is None:
            known = self._ledger.find(Plan().digest, self.images)
            self._dense = known.hits() if known else self._measure_dense()
        return self._dense

    def _reference_logits(self, count: int) -> torch.Tensor:
        """The dense model's logits on the first `count` images, `[count or more, K]`."""
        if self._reference is None or len(self._reference) < count:
            found = self._evaluator.outcome(Plan(), limit=count, keep=self.groups)
            self._reference = found.logits
        return self._reference

    def _measure_dense(self) -> npt.NDArray[np.bool_]:
        started = time.perf_counter()
        found = self._evaluator.outcome(Plan(), keep=self.groups)
        hits, self._reference = found.hits, found.logits
        self._ledger.append(
            Candidate(
                plan=Plan().digest,
                limit=self.images,
                step="dense",
                correct=int(hits.sum()),
                lost=0,
                gained=0,
                n=len(hits),
                stopped_early=False,
                seconds=round(time.perf_counter() - started, 3),
                divergence=0.0,
                flags=Candidate.packed(hits),
            )
        )
        return hits


def _divergence(reference: torch.Tensor | None, found: Outcome) -> float | None:
    """Mean Kullback-Leibler divergence of the found probabilities from the dense ones, nats."""
    if reference is None or len(reference) < len(found.logits):
        return None
    dense = reference[: len(found.logits)].double().log_softmax(dim=1)
    pruned = found.logits.double().log_softmax(dim=1)
    return round(float((dense.exp() * (dense - pruned)).sum(dim=1).mean()), _DIGITS)
