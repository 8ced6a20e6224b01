"""The accuracy constraint: how much a pruned model may lose."""

from __future__ import annotations

from dataclasses import dataclass

from primesvt_deploy.pruning.search.ledger import Candidate

__all__ = ["AccuracyConstraint"]


@dataclass(frozen=True)
class AccuracyConstraint:
    """Percentage points of top-1 that may be lost on the search images.

    Args:
        max_drop: points that may be lost in all; None: any.
        reserved: points of them that are set aside, such as for quantization.
    """

    max_drop: float | None
    reserved: float = 0.0

    @property
    def allowed(self) -> float:
        """Points that are left for pruning."""
        return (100.0 if self.max_drop is None else self.max_drop) - self.reserved

    def keeps(self, candidate: Candidate) -> bool:
        """Whether a candidate loses no more than allowed: on all its images, or surely on them."""
        return candidate.within(self.allowed) is True
