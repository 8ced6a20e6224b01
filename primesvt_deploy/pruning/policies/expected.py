"""Candidates that each policy will evaluate: how many, of which groups, on how many images.

Where that depends on how candidates turn out there is a low, a likely and a high number. The likely
ones were read off searches of the reference models; the rest follows from the policies themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pruning.plan import kept_width
from primesvt_deploy.pruning.policies.greedy import STAGE_SHARE
from primesvt_deploy.pruning.search.judge import HOPELESS_Z
from primesvt_deploy.settings import SearchSettings

__all__ = [
    "LOOK",
    "Outset",
    "Visit",
    "Work",
    "expected_work",
    "images_until_hopeless",
    "robustness_work",
    "without_known",
]

LOOK = 128
"""Images between two looks at whether a candidate is hopeless."""
_DISCORDANT = 0.1
"""Share of images that only one of candidate and dense model classifies rightly."""
_ACCEPTED = Span(0.6, 0.3, 0.8)
"""Rate at which the prioritized policy narrows a layer: recovered, most layers keep it."""
_TRIED = Span(2.0, 1.0, 4.0)
"""Candidates until one of a layer is accepted, the deepest first."""
_HOPELESS_POWER = Span(5.0, 2.0, 10.0)
"""Of the rate: the share of points that are hopeless; without recovery it is `_BARE_POWER`."""
_BARE_POWER = Span(1.0, 0.5, 2.0)
_GREEDY_POINTS, _LATER_POINTS = 4, 3
_LIKELY_SHARE = 0.5
"""Share of the bytes that leaves, where nothing tells."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Candidates that are evaluated one after another, which vary the same group.

    Args:
        group: its name; None: plans as a whole, whose cut networks are run.
        candidates: how many.
        images: of each.
        share: of the dense model's bytes that the plan has, around which they vary.
    """

    group: str | None
    candidates: Span
    images: Span
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """A stage of a search.

    Args:
        stage: its name, as progress gets it.
        step: of its candidates in the ledger.
        visits: in order.
        around_dense: whether all candidates vary the dense model.
        accumulates: whether the plan changes from one visit to the next.
    """

    stage: str
    step: str
    visits: tuple[Visit, ...]
    around_dense: bool = False
    accumulates: bool = False

    @property
    def candidates(self) -> Span:
        """Candidates of all visits."""
        return Span.total(visit.candidates for visit in self.visits)

    @property
    def images(self) -> Span:
        """Images of all candidates."""
        return Span.total(visit.candidates * visit.images for visit in self.visits)


@dataclass(frozen=True, kw_only=True)
class Outset:
    """Model, settings and budget that a search starts from.

    Args:
        settings: of the search.
        groups: that can lose channels, largest first.
        images: search images.
        leaves: share of the dense model's bytes that has to leave; None: not known.
        share_of: share of those bytes that are left under widths of groups, by their names.
    """

    settings: SearchSettings
    groups: Sequence[Group]
    images: int
    leaves: float | None
    share_of: Callable[[Mapping[str, int]], float]

    @property
    def leaving(self) -> float:
        """Share that has to leave, or a likely one."""
        return _LIKELY_SHARE if self.leaves is None else max(0.0, self.leaves)


def images_until_hopeless(
    drop: float, max_drop: float, limit: int, discordant: float = _DISCORDANT
) -> int:
    """Images after which a candidate of a drop is given up, at the looks that are taken.

    Its interval lies beyond the constraint once `z sqrt(p / n) < (drop - max_drop) / 100` for
    the share p of discordant images (McNemar); the least n of that, as `PairedDrop` has it.

    Args:
        drop: percentage points that it loses.
        max_drop: that may be lost.
        limit: images at most.
        discordant: share of images that only one of candidate and dense model classifies rightly.
    """
    share = max(discordant, abs(drop) / 100.0)
    for n in range(LOOK, limit, LOOK):
        lost = round(n * (share + drop / 100.0) / 2.0)
        gained = round(n * (share - drop / 100.0) / 2.0)
        if PairedDrop(lost, gained, n).surely_exceeds(max_drop, HOPELESS_Z):
            return n
    return limit


def expected_work(outset: Outset) -> list[Work]:
    """The stages in which the policy of the settings evaluates candidates, in order."""
    policy = outset.settings.policy
    if policy == "prioritized":
        return [robustness_work(outset), _walk(outset)]
    if policy == "greedy":
        return [*_sensitivity(outset), _on_path(outset)]
    return [_on_path(outset)]


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
            key = work.step, visit.group or ""
            done = min(left[key], math.ceil(visit.candidates.high))
            left[key] -= done
            visits.append(replace(visit, candidates=visit.candidates.less(done)))
        found.append(replace(work, visits=tuple(visits)))
    return found


def robustness_work(outset: Outset) -> Work:
    """Every group pruned alone at each rate."""
    settings = outset.settings
    limit = min(settings.robustness_images, outset.images)
    images = Span.total(_point_images(settings, rate, limit) for rate in settings.rates)
    each = images * (1.0 / len(settings.rates))
    count = Span.exactly(len(settings.rates))
    visits = (Visit(group=group.name, candidates=count, images=each) for group in outset.groups)
    return Work(stage="robustness", step="robustness", visits=tuple(visits), around_dense=True)


def _point_images(settings: SearchSettings, rate: float, limit: int) -> Span:
    """Images of a point: all, or as many as show that it is hopeless."""
    if settings.max_drop is None:
        return Span.exactly(limit)
    power = _HOPELESS_POWER if settings.recover else _BARE_POWER
    hopeless = [rate**by for by in (power.likely, power.low, power.high)]
    # What is hopeless loses some four times what may be lost, or more.
    seen = images_until_hopeless(4.0 * settings.max_drop + 2.0, settings.max_drop, limit)
    return Span(*(share * seen + (1.0 - share) * limit for share in hopeless))


def _walk(outset: Outset) -> Work:
    """Layers from the largest on until the budget is met, each at a rate that is accepted."""
    ways = [_layers_needed(outset, rate) for rate in _rates(_ACCEPTED, outset.settings.rates)]
    likely, few, many = ways[0], ways[2], ways[1]
    limit = Span(outset.images, outset.images * 0.6, outset.images)
    visits = [Visit(group=None, candidates=Span(1.0, 0.0, 1.0), images=limit)]
    share = 1.0
    for number, group in enumerate(outset.groups[:many]):
        tried = Span(
            _TRIED.likely if number < likely else 0.0,
            _TRIED.low if number < few else 0.0,
            min(_TRIED.high, len(outset.settings.rates)),
        )
        # Of several tried the last is accepted, on all images, and the others are hopeless sooner.
        first = min(4 * LOOK, outset.images)
        refused = (tried.likely - 1.0) / tried.likely if tried.likely else 0.0
        images = Span(
            refused * first + (1.0 - refused) * outset.images, limit.low, float(outset.images)
        )
        visits.append(Visit(group=group.name, candidates=tried, images=images, share=share))
    return Work(
        stage="prioritized policy", step="prioritized", visits=tuple(visits), accumulates=True
    )


def _rates(accepted: Span, rates: Sequence[float]) -> list[float]:
    """The nearest rates of the grid: likely, low, high."""
    wanted = (accepted.likely, accepted.low, accepted.high)
    return [min(rates, key=lambda rate: abs(rate - by)) for by in wanted]


def _layers_needed(outset: Outset, rate: float) -> int:
    """Layers that are narrowed at a rate until enough has left; all, if that does not suffice."""
    widths: dict[str, int] = {}
    for number, group in enumerate(outset.groups, start=1):
        widths[group.name] = kept_width(group, rate, multiple=outset.settings.channel_multiple)
        if 1.0 - outset.share_of(widths) >= outset.leaving:
            return number
    return len(outset.groups)


def _sensitivity(outset: Outset) -> list[Work]:
    """Rounds in which every layer is narrowed further, each an eighth of the bytes later."""
    rounds = max(1, math.ceil(outset.leaving / STAGE_SHARE - 1e-9))
    limit = min(max(outset.settings.robustness_images // 2, 50), outset.images)
    images = Span.exactly(limit)
    found = []
    # Where constant channels leave beforehand, the last round may not be needed.
    spared = "free" in outset.settings.recover
    for number in range(rounds):
        count = _LATER_POINTS if number else _GREEDY_POINTS
        points = Span(count, 0.0 if spared and 0 < number == rounds - 1 else count, count)
        share = 1.0 - number * STAGE_SHARE
        base = Visit(group=None, candidates=Span.exactly(1.0), images=images, share=share)
        visits = (
            Visit(group=group.name, candidates=points, images=images, share=share)
            for group in outset.groups
        )
        found.append(
            Work(
                stage="sensitivity", step="greedy", visits=(base, *visits), around_dense=number == 0
            )
        )
    return found


def _on_path(outset: Outset) -> Work:
    """The first plan within the budget; where it loses too much, bisection for the deepest."""
    bisected = 1.0 + math.log2(max(2.0, 32.0 * outset.leaving * len(outset.groups)))
    visit = Visit(
        group=None,
        candidates=Span(1.0, 1.0, bisected),
        images=Span(outset.images, min(outset.images, 4 * LOOK), outset.images),
        share=1.0 - outset.leaving,
    )
    policy = outset.settings.policy
    return Work(stage=f"{policy} policy", step=policy, visits=(visit,))
