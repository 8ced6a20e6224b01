"""A question about a candidate plan."""

from __future__ import annotations

from dataclasses import dataclass

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.pruning.plan import Plan

__all__ = ["Query"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question about a candidate plan.

    Args:
        plan: channels that stay.
        step: `free`, `robustness`, or the name of the policy.
        group: the group that was varied, if it is one.
        rate: at which rate.
        limit: the images that it is about; None: all.
        allowed: points that may be lost on them; it stops once it is sure whether the plan loses
            more. None: all of them are seen.
        estimate: what is surely within goes on all the same, so that its drop is known.
        divergence: with the divergence from the dense model's probabilities; no limit decides.
    """

    plan: Plan
    step: str
    group: Group | None = None
    rate: float = 0.0
    limit: int | None = None
    allowed: float | None = None
    estimate: bool = False
    divergence: bool = False
