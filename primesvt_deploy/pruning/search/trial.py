"""A question about a candidate plan, and what evaluating the plan answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.sequential import SequentialTest
from primesvt_deploy.pruning.search.engine import Asked, Outcome
from primesvt_deploy.pruning.search.ledger import Candidate, Decision
from primesvt_deploy.pruning.search.query import Query

__all__ = ["KEPT_IMAGES", "Hits", "Question", "Trial", "divergence_between", "varied_groups"]

KEPT_IMAGES = 512
"""Where a candidate is about no more, states before the layer that is varied are cached."""
_DIGITS = 9
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """The question that is asked of a candidate.

    Args:
        limit: images that it is about.
        allowed: points that may be lost on them; None: all of them have to be seen.
        estimate: what is within has to be seen on all of them.
        divergence: from the dense model's probabilities, on all of them.
    """

    limit: int
    allowed: float | None
    estimate: bool
    divergence: bool

    def answered_by(self, known: Candidate) -> bool:
        """Whether a candidate of the ledger answers it."""
        if known.whole:
            return known.divergence is not None or not self.divergence
        if self.allowed is None or self.divergence:
            return False
        return self.settled(known.within(self.allowed))

    def settled(self, within: bool | None) -> bool:
        """Whether no further image is needed, as far as the limit is decided."""
        return within is False or (within is True and not self.estimate)


class Trial:
    """A query that is evaluated as far as it takes, the dense model's hits being known.

    Args:
        query: the question.
        asked: what of it has to be known.
        dense: hits of the dense model, on `asked.limit` images at least.
        before: hits of the plan that are known.
    """

    def __init__(self, query: Query, asked: Question, dense: Hits, before: Hits) -> None:
        self._dense, self._question = dense, asked
        self._before = before[:0] if query.divergence else before
        self._test: SequentialTest | None = None
        if query.allowed is not None and not query.divergence:
            self._test = SequentialTest(asked.limit, query.allowed)
            self._test.see(dense[: len(before)], before)
        self.asked = Asked(
            plan=query.plan,
            start=len(self._before),
            limit=asked.limit,
            stop=None if self._test is None else self._sure,
            keep=varied_groups(query, asked),
        )

    def found(
        self, outcome: Outcome, reference: torch.Tensor | None
    ) -> tuple[Hits, float | None, Decision]:
        """Hits of the plan, its divergence from `reference`, and what was decided."""
        hits = np.concatenate([self._before, outcome.hits])
        if self._question.divergence:
            assert reference is not None
            return hits, divergence_between(reference, outcome.logits), ""
        if self._test is None:
            return hits, None, ""
        self._sure(outcome.hits)  # the engine does not ask behind the last image
        if len(hits) == self._question.limit or self._test.within is None:
            return hits, None, ""
        return hits, None, "within" if self._test.within else "beyond"

    def _sure(self, flags: Hits) -> bool:
        """Whether it is sure after the flags so far, from the first image evaluated on."""
        test, start = self._test, len(self._before)
        assert test is not None
        now = start + len(flags)
        test.see(self._dense[test.seen : now], flags[test.seen - start :])
        return self._question.settled(test.within)


def varied_groups(query: Query, asked: Question) -> tuple[Group, ...]:
    """The group before which states are cached, if they are.

    On many images the narrower network is faster than the masked one behind a cached prefix.
    """
    return () if query.group is None or asked.limit > KEPT_IMAGES else (query.group,)


def divergence_between(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence of the found probabilities from the dense ones, nats."""
    dense = reference[: len(logits)].double().log_softmax(dim=1)
    pruned = logits.double().log_softmax(dim=1)
    return round(float((dense.exp() * (dense - pruned)).sum(dim=1).mean()), _DIGITS)
