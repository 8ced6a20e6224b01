"""Judge candidate plans by accuracy on the search split, each once, through the ledger."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.engine import EvaluationEngine, Outcome
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger

__all__ = ["HOPELESS_Z", "LedgerJudge"]

HOPELESS_Z = 2.576
"""A candidate is given up once its drop exceeds the constraint by so many standard errors."""
_DIGITS = 9


class LedgerJudge:
    """Evaluates each candidate plan once and keeps the outcome in a ledger.

    Args:
        engine: classifies the search images, in an order of which every prefix is a sample.
        ledger: where candidates are kept.
        max_drop: percentage points; a candidate that surely loses more is given up early.
        weights: SHA-256 of the file of the dense model's weights; "": it has none.
        progress: gets the images of each candidate; no step.
    """

    def __init__(
        self,
        engine: EvaluationEngine,
        ledger: Ledger,
        *,
        max_drop: float = 100.0,
        weights: str = "",
        progress: Progress = SILENT,
    ) -> None:
        self.images = len(engine.labels)
        self._engine, self._ledger, self._max_drop = engine, ledger, max_drop
        self._weights, self._progress = weights, progress
        self._dense_logits: torch.Tensor | None = None

    def dense(self) -> Accuracy:
        """Accuracy of the dense model on all search images."""
        return Accuracy.of(self._dense_hits)

    def release(self) -> None:
        """Give the memory of the search back; candidates stay in the ledger."""
        self._engine.release()

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
        """The outcome of `plan`, from the ledger if it is there; see `policies.base.Judge`."""
        count = min(limit or self.images, self.images)
        cached = self._ledger.find(plan.digest, count)
        if cached is not None and (not divergence or _has_divergence(cached)):
            return cached
        dense = self._dense_hits
        reference = self._reference_logits(count) if divergence else self._dense_logits
        started = time.perf_counter()

        def hopeless(flags: npt.NDArray[np.bool_]) -> bool:
            return PairedDrop.of(dense, flags).surely_exceeds(self._max_drop, HOPELESS_Z)

        found = self._engine.outcome(
            plan,
            limit=count,
            stop=hopeless if give_up else None,
            keep=[group] if group is not None else (),
            progress=self._progress,
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
            channels=plan.packed(self._engine.groups),
        )
        self._ledger.append(candidate)
        return candidate

    @cached_property
    def _dense_hits(self) -> npt.NDArray[np.bool_]:
        """Whether the dense model classifies each search image rightly."""
        cached = self._ledger.hits(Plan().digest, self.images)
        return self._measure_dense() if cached is None else cached

    def _reference_logits(self, count: int) -> torch.Tensor:
        """The dense model's logits on the first `count` images, `[count or more, K]`."""
        if self._dense_logits is None or len(self._dense_logits) < count:
            found = self._engine.outcome(
                Plan(), limit=count, keep=self._engine.groups, progress=self._progress
            )
            self._dense_logits = found.logits
        return self._dense_logits

    def _measure_dense(self) -> npt.NDArray[np.bool_]:
        started = time.perf_counter()
        found = self._engine.outcome(Plan(), keep=self._engine.groups, progress=self._progress)
        self._dense_logits = found.logits
        self._ledger.append(
            Candidate(
                plan=Plan().digest,
                limit=self.images,
                step="dense",
                correct=int(found.hits.sum()),
                lost=0,
                gained=0,
                n=len(found.hits),
                stopped_early=False,
                seconds=round(time.perf_counter() - started, 3),
                divergence=0.0,
                flags=Candidate.packed(found.hits),
                weights=self._weights,
            )
        )
        return found.hits


def _has_divergence(candidate: Candidate) -> bool:
    return candidate.divergence is not None and not candidate.stopped_early


def _divergence(reference: torch.Tensor | None, found: Outcome) -> float | None:
    """Mean Kullback-Leibler divergence of the found probabilities from the dense ones, nats."""
    if reference is None or len(reference) < len(found.logits):
        return None
    dense = reference[: len(found.logits)].double().log_softmax(dim=1)
    pruned = found.logits.double().log_softmax(dim=1)
    return round(float((dense.exp() * (dense - pruned)).sum(dim=1).mean()), _DIGITS)
