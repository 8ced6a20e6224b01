"""Judge candidate plans by accuracy on the search split, through the ledger."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model import SViT
from primesvt_deploy.pruning.choice import Choice
from primesvt_deploy.pruning.evaluate import Evaluator
from primesvt_deploy.pruning.ledger import Candidate, Ledger
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.stats import Accuracy, PairedDrop

__all__ = ["HOPELESS_Z", "Judge"]

HOPELESS_Z = 2.576
"""A candidate is given up once its drop exceeds the constraint by so many standard errors."""


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
    ) -> None:
        self.max_drop = max_drop
        self.allowed = max_drop - reserve
        self.groups = tuple(groups)
        self.images = len(images)
        self._ledger = ledger
        self._evaluator = Evaluator(model, groups, images)
        self._choice = Choice(model.module, groups, channel_multiple)
        self._dense: npt.NDArray[np.bool_] | None = None

    def dense(self) -> Accuracy:
        """Accuracy of the dense model on all search images."""
        return Accuracy.of(self._dense_hits())

    def pruned(self, plan: Plan, group: Group, rate: float) -> Plan:
        """`plan` with the least important share `rate` of one group's channels gone."""
        return self._choice.pruned(plan, group, rate)

    def judge(
        self,
        plan: Plan,
        *,
        step: str,
        group: Group,
        rate: float,
        limit: int | None = None,
        give_up: bool = True,
    ) -> Candidate:
        """The outcome of `plan`, from the ledger where it is known.

        Args:
            plan: what to evaluate.
            step: `robustness` or `policy`.
            group: the group that was varied.
            rate: at which rate.
            limit: images at most; default all.
            give_up: stop once the drop surely exceeds the constraint.
        """
        count = min(limit or self.images, self.images)
        known = self._ledger.find(plan.digest, count)
        if known is not None:
            return known
        dense = self._dense_hits()
        started = time.perf_counter()

        def hopeless(flags: npt.NDArray[np.bool_]) -> bool:
            return PairedDrop.of(dense, flags).surely_exceeds(self.max_drop, HOPELESS_Z)

        hits = self._evaluator.hits(
            plan, limit=count, stop=hopeless if give_up else None, keep=[group]
        )
        drop = PairedDrop.of(dense, hits)
        candidate = Candidate(
            plan=plan.digest,
            limit=count,
            step=step,
            group=group.name,
            rate=rate,
            kept=plan.widths([group])[group.name],
            correct=int(hits.sum()),
            lost=drop.lost,
            gained=drop.gained,
            n=len(hits),
            stopped_early=len(hits) < count,
            seconds=round(time.perf_counter() - started, 3),
        )
        self._ledger.append(candidate)
        return candidate

    def within(self, candidate: Candidate) -> bool:
        """Whether a candidate was seen whole and keeps the accuracy constraint."""
        return not candidate.stopped_early and candidate.drop.points <= self.allowed

    def _dense_hits(self) -> npt.NDArray[np.bool_]:
        if self._dense is None:
            known = self._ledger.find(Plan().digest, self.images)
            self._dense = known.hits() if known else self._measure_dense()
        return self._dense

    def _measure_dense(self) -> npt.NDArray[np.bool_]:
        started = time.perf_counter()
        hits = self._evaluator.hits(Plan(), keep=self.groups)
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
                flags=Candidate.packed(hits),
            )
        )
        return hits
