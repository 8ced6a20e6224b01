"""Judge candidate plans by accuracy on the search split, through the ledger.

A candidate that is held against a limit is evaluated until it is sure whether its drop on all
search images is within it (`measure.sequential`); the dense model, which it is compared with, on as
many images as candidates have needed so far. Both can go on from the ledger where they stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.sequential import SequentialTest
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.engine import EvaluationEngine, Outcome
from primesvt_deploy.pruning.search.ledger import Candidate, Decision, Ledger
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.pruning.search.trial import (
    KEPT_IMAGES,
    Hits,
    Question,
    Trial,
    divergence_between,
    varied_groups,
)

__all__ = ["DENSE_IMAGES", "LedgerJudge"]

DENSE_IMAGES = 256
"""The dense model is evaluated on so many images at first, then on half as many more each time."""


class LedgerJudge:
    """Evaluates candidate plans on as many images as it takes, and keeps them in a ledger.

    Args:
        engine: classifies the search images, in an order of which every prefix is a sample.
        ledger: where candidates are kept.
        weights: SHA-256 of the file of the dense model's weights; "": it has none.
        progress: gets the images of each candidate; no step.
    """

    def __init__(
        self,
        engine: EvaluationEngine,
        ledger: Ledger,
        *,
        weights: str = "",
        progress: Progress = SILENT,
    ) -> None:
        self.images = len(engine.labels)
        self._engine, self._ledger = engine, ledger
        self._weights, self._progress = weights, progress
        self._dense = ledger.hits(Plan().digest, self.images)
        self._logits: torch.Tensor | None = None

    def dense(self, images: int = DENSE_IMAGES) -> Accuracy:
        """Accuracy of the dense model on all search images that it has been evaluated on.

        Args:
            images: on so many at least.
        """
        self._extend_dense(images)
        return Accuracy.of(self._dense)

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
        allowed: float | None = None,
        estimate: bool = False,
        divergence: bool = False,
    ) -> Candidate:
        """The outcome of `plan`, from the ledger if it is there; see `policies.base.Judge`."""
        query = Query(
            plan=plan, step=step, group=group, rate=rate, limit=limit,
            allowed=allowed, estimate=estimate, divergence=divergence,
        )  # fmt: skip
        asked = self._question(query)
        if not plan.kept and asked.limit == self.images:
            self._extend_dense(self.images)
        known = self._ledger.find(plan.digest, asked.limit)
        if known is not None and asked.answered_by(known):
            return known
        started = time.perf_counter()
        found = self._evaluated(plan, asked, varied_groups(query, asked))
        return self._kept(query, *found, started)

    def judge_all(self, queries: Sequence[Query]) -> Iterator[Candidate]:
        """Outcomes of plans that do not depend on one another; see `policies.base.Judge`."""
        questions = [self._question(query) for query in queries]
        most = max((asked.limit for asked in questions), default=0)
        self._extend_dense(most)
        reference = self._dense_logits(most) if any(q.divergence for q in queries) else None
        trials = self._trials(queries, questions)
        started = time.perf_counter()
        outcomes = self._engine.outcomes([each.asked for each in trials.values()], self._progress)
        for number, (query, asked) in enumerate(zip(queries, questions, strict=True)):
            if number in trials:
                found = trials[number].found(next(outcomes), reference)
                yield self._kept(query, *found, started)
                started = time.perf_counter()
            else:  # by now what an equal one before it has left there is in the ledger as well
                known = self._ledger.find(query.plan.digest, asked.limit)
                assert known is not None
                yield known

    def _trials(self, queries: Sequence[Query], questions: Sequence[Question]) -> dict[int, Trial]:
        """The evaluations that are needed, by the number of the query; of equal ones the first."""
        trials: dict[int, Trial] = {}
        begun: set[tuple[str, int]] = set()
        for number, (query, asked) in enumerate(zip(queries, questions, strict=True)):
            key = query.plan.digest, asked.limit
            known = self._ledger.find(*key)
            if key not in begun and (known is None or not asked.answered_by(known)):
                begun.add(key)
                before = self._ledger.hits(*key)
                trials[number] = Trial(query, asked, self._dense, before)
        return trials

    def _question(self, query: Query) -> Question:
        limit = min(query.limit or self.images, self.images)
        return Question(limit, query.allowed, query.estimate, query.divergence)

    def _kept(
        self,
        query: Query,
        hits: Hits,
        distance: float | None,
        decision: Decision,
        started: float,
    ) -> Candidate:
        """Candidate of a query that was evaluated, in the ledger."""
        plan, group = query.plan, query.group
        limit = self._question(query).limit
        known = self._ledger.find(plan.digest, limit)
        drop = PairedDrop.of(self._dense, hits)
        before = known.seconds if known is not None else 0.0
        candidate = Candidate(
            plan=plan.digest,
            limit=limit,
            step=query.step,
            group=group.name if group is not None else "",
            rate=query.rate,
            kept=plan.widths([group])[group.name] if group is not None else 0,
            correct=int(hits.sum()),
            lost=drop.lost,
            gained=drop.gained,
            n=len(hits),
            decision=decision,
            allowed=query.allowed if decision else None,
            seconds=round(before + time.perf_counter() - started, 3),
            divergence=distance,
            channels=plan.packed(self._engine.groups),
            flags=Candidate.packed(hits) if len(hits) < limit else "",
            device=self._engine.device,
        )
        self._ledger.append(candidate)
        return candidate

    def _evaluated(
        self, plan: Plan, asked: Question, varied: Sequence[Group]
    ) -> tuple[Hits, float | None, Decision]:
        """Hits of a plan on as many images as it takes, its divergence, and what was decided."""
        if asked.divergence:
            reference = self._dense_logits(asked.limit)
            found = self._outcome(plan, 0, asked.limit, varied)
            return found.hits, divergence_between(reference, found.logits), ""
        hits = self._ledger.hits(plan.digest, asked.limit)
        if asked.allowed is None:
            self._extend_dense(asked.limit)
            rest = self._outcome(plan, len(hits), asked.limit, varied).hits
            return np.concatenate([hits, rest]), None, ""
        test = SequentialTest(asked.limit, asked.allowed)
        self._extend_dense(max(len(hits), DENSE_IMAGES))
        test.see(self._dense[: len(hits)], hits)
        while len(hits) < asked.limit and not asked.settled(test.within):
            if len(hits) == len(self._dense):
                self._extend_dense(len(hits) + len(hits) // 2)
            hits = np.concatenate([hits, self._tested(plan, asked, test, varied)])
        if len(hits) == asked.limit or test.within is None:
            return hits, None, ""
        return hits, None, "within" if test.within else "beyond"

    def _tested(
        self, plan: Plan, asked: Question, test: SequentialTest, varied: Sequence[Group]
    ) -> Hits:
        """Hits on the next images, until it is sure or the dense model's hits are used up."""
        start = test.seen

        def sure(flags: Hits) -> bool:
            now = start + len(flags)
            test.see(self._dense[test.seen : now], flags[test.seen - start :])
            return asked.settled(test.within)

        until = min(asked.limit, len(self._dense))
        hits = self._outcome(plan, start, until, varied, sure).hits
        sure(hits)  # the engine does not ask behind the last image
        return hits

    def _outcome(
        self,
        plan: Plan,
        start: int,
        limit: int,
        keep: Iterable[Group],
        stop: Callable[[Hits], bool] | None = None,
    ) -> Outcome:
        progress = self._progress
        return self._engine.outcome(
            plan, start=start, limit=limit, stop=stop, keep=keep, progress=progress
        )

    def _dense_logits(self, count: int) -> torch.Tensor:
        """The dense model's logits on the first `count` images, `[count or more, K]`."""
        self._extend_dense(count)
        if self._logits is None or len(self._logits) < count:  # hits are from the ledger
            self._logits = self._outcome(Plan(), 0, count, self._engine.groups).logits
        return self._logits

    def _extend_dense(self, images: int) -> None:
        """Evaluate the dense model on so many images, those included that it was before."""
        begun, until = len(self._dense), min(max(images, DENSE_IMAGES), self.images)
        if begun >= until:
            return
        started = time.perf_counter()
        # One layer alone is pruned on few images: behind them its states would not be asked for.
        keep = self._engine.groups if begun < KEPT_IMAGES else ()
        found = self._outcome(Plan(), begun, until, keep)
        self._dense = np.concatenate([self._dense, found.hits])
        if not begun:
            self._logits = found.logits
        elif self._logits is not None and len(self._logits) == begun:
            self._logits = torch.cat([self._logits, found.logits])
        known = self._ledger.find(Plan().digest, self.images)
        before = known.seconds if known is not None else 0.0
        self._ledger.append(
            Candidate(
                plan=Plan().digest,
                limit=self.images,
                step="dense",
                correct=int(self._dense.sum()),
                lost=0,
                gained=0,
                n=len(self._dense),
                seconds=round(before + time.perf_counter() - started, 3),
                divergence=0.0,
                flags=Candidate.packed(self._dense),
                weights=self._weights,
                device=self._engine.device,
            )
        )
