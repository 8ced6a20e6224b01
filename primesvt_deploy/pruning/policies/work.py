"""Work that a policy has before it: which candidates it evaluates, on how many images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.span import Span
from primesvt_deploy.settings import SearchSettings

__all__ = ["Outset", "Visit", "Work", "without_known"]

_LIKELY_SHARE = 0.5
"""Share of the bytes that leaves, where nothing tells."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Candidates that are evaluated one after another, which vary the same group.

    Args:
        step: of theirs in the ledger.
        group: its name; None: plans as a whole, whose cut networks are run.
        candidates: how many.
        images: of each.
        share: of the dense model's bytes that the plan has, around which they vary.
        around_dense: whether they vary the dense model.
    """

    step: str
    group: str | None
    candidates: Span
    images: Span
    share: float = 1.0
    around_dense: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """A stage of a search.

    Args:
        stage: its name, as progress gets it.
        visits: in order.
        accumulates: whether the plan changes from one visit to the next.
    """

    stage: str
    visits: tuple[Visit, ...]
    accumulates: bool = False

    @property
    def candidates(self) -> Span:
        """Candidates of all visits."""
        return Span.total(visit.candidates for visit in self.visits)

    @property
    def images(self) -> Span:
        """Images of all candidates."""
        return Span.total(visit.candidates * visit.images for visit in self.visits)

    @property
    def compared(self) -> Span:
        """Images that the dense model has to be evaluated on, so that candidates are compared."""
        seen = [visit.images for visit in self.visits if visit.candidates.likely]
        return Span(
            max((images.likely for images in seen), default=0.0),
            max((images.low for images in seen), default=0.0),
            max((visit.images.high for visit in self.visits), default=0.0),
        )


@dataclass(frozen=True, kw_only=True)
class Outset:
    """Model, settings and budget that a search starts from.

    Args:
        settings: of the search.
        groups: that can lose channels, largest first.
        images: search images.
        leaves: share of the dense model's bytes that has to leave; None: not known.
        share_of: share of those bytes that are left under widths of groups, by their names.
        early: names of groups that begin before all blocks, so that all else depends on them.
        ends_on_all: whether the plan that is decided on is evaluated on all images at last.
    """

    settings: SearchSettings
    groups: Sequence[Group]
    images: int
    leaves: float | None
    share_of: Callable[[Mapping[str, int]], float]
    early: Collection[str] = ()
    ends_on_all: bool = False

    @property
    def leaving(self) -> float:
        """Share that has to leave, or a likely one."""
        return _LIKELY_SHARE if self.leaves is None else max(0.0, self.leaves)


def without_known(works: Sequence[Work], known: Iterable[tuple[str, str]]) -> list[Work]:
    """The same work without candidates that a ledger has, so that they cost nothing.

    Args:
        works: in order.
        known: step and group of each candidate in the ledger; no group: "".
    """
    left = Counter(known)
    found = []
    for work in works:
        visits = []
        for visit in work.visits:
            key = visit.step, visit.group or ""
            done = min(left[key], math.ceil(visit.candidates.likely))
            left[key] -= done
            visits.append(replace(visit, candidates=visit.candidates.less(done)))
        found.append(replace(work, visits=tuple(visits)))
    return found
