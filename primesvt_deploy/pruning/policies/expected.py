"""Candidates that each policy will evaluate: how many, of which groups, on how many images.

Where that depends on how candidates turn out there is a low, a likely and a high number. The likely
ones were read off searches of the reference models; the rest follows from the policies themselves
and from the test that decides on candidates (`measure.sequential`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pruning.plan import kept_width
from primesvt_deploy.pruning.policies.expected_images import (
    images_seen,
    mixed_images,
    refused_share,
)
from primesvt_deploy.pruning.policies.greedy import STAGE_SHARE, curve_images
from primesvt_deploy.pruning.policies.work import Outset, Visit, Work

__all__ = ["expected_work", "robustness_work"]

_KEPT, _REFUSED_OUTCOME = (0.75, 0.1), (5.0, 0.1)
"""Drop, by what may be lost, and likely discordant share of a candidate that is kept or refused:
policies that go as deep as the constraint allows come near it."""
_KEPT_BY_GREEDY = (0.25, 0.15, 0.02), (0.6, 0.65, 0.1)
"""The same of the greedy policy, which goes to what costs least: behind the share that leaves."""
_ACCEPTED = Span(0.6, 0.3, 0.8)
"""Rate at which the prioritized policy narrows a layer: recovered, most layers keep it."""
_REFUSED = Span(0.5, 0.0, 2.0)
"""Candidates of a layer that are refused before one is kept, though the layer alone keeps it."""
_GREEDY_POINTS, _LATER_POINTS = 4, 3
_FIRST, _LATER, _LATER_OF_EARLY, _DEAR_UNTIL = 1.4, 2.3, 1.2, 0.25
"""Likely points of a layer that the greedy policy measures around the dense model and later; layers
before the first block, and the stream behind it, are too dear until so much has left."""


def expected_work(outset: Outset) -> list[Work]:
    """The stages in which the policy of the settings evaluates candidates, in order."""
    policy = outset.settings.policy
    if policy == "prioritized":
        works = [_walk(outset)]
    elif policy == "greedy":
        works = [*_sensitivity(outset), _on_path(outset)]
    else:
        works = [_on_path(outset)]
    if outset.ends_on_all:
        last = works[-1]
        whole = Visit(
            step="",
            group=None,
            candidates=Span.exactly(1.0),
            images=Span.exactly(outset.images),
            share=1.0 - outset.leaving,
        )
        works[-1] = replace(last, visits=(*last.visits, whole))
    return works


def robustness_work(outset: Outset) -> Work:
    """Every group pruned alone at each rate; what keeps the constraint is seen on all images."""
    settings = outset.settings
    limit = min(settings.robustness_images, outset.images)
    kept = Span.exactly(limit)
    refused = images_seen(settings, _REFUSED_OUTCOME, limit)
    each = [mixed_images(refused_share(settings, rate), refused, kept) for rate in settings.rates]
    images = Span.total(each) * (1.0 / len(settings.rates))
    visits = (
        Visit(
            step="robustness",
            group=group.name,
            candidates=Span.exactly(len(settings.rates)),
            images=images,
            around_dense=True,
        )
        for group in outset.groups
    )
    return Work(stage="robustness", visits=tuple(visits))


def _walk(outset: Outset) -> Work:
    """Layers from the largest on until the budget is met, each at a rate that is kept."""
    settings, total = outset.settings, outset.images
    limit = min(settings.robustness_images, total)
    alone_kept, alone_refused = (images_seen(settings, o, limit) for o in (_KEPT, _REFUSED_OUTCOME))
    kept, refused = (images_seen(settings, o, total) for o in (_KEPT, _REFUSED_OUTCOME))
    layers = [_layers_needed(outset, rate) for rate in _rates(_ACCEPTED, settings.rates)]
    likely, many, few = (len(each) for each in layers)
    free = Span(1.0, 0.0, 1.0) if "free" in settings.recover else Span.exactly(0.0)
    visits = [Visit(step="free", group=None, candidates=free, images=kept)]
    for number, group in enumerate(outset.groups[:many]):
        points = Span(
            layers[0][number] if number < likely else 0.0,
            1.0 if number < few else 0.0,
            len(settings.rates),
        )
        # The last of them is kept, or the one before the budget; deeper ones are refused.
        share = max(0.0, points.likely - 1.0) / max(points.likely, 1.0)
        alone = mixed_images(Span(share, 0.0, 0.9), alone_refused, alone_kept)
        tried = Span(
            1.0 + _REFUSED.likely if number < likely else 0.0,
            1.0 + _REFUSED.low if number < few else 0.0,
            1.0 + _REFUSED.high,
        )
        mixed = mixed_images(Span(1.0 / 3.0, 0.0, 0.5), refused, kept)
        visits.append(
            Visit(
                step="robustness",
                group=group.name,
                candidates=points,
                images=alone,
                around_dense=True,
            )
        )
        visits.append(Visit(step="prioritized", group=group.name, candidates=tried, images=mixed))
    return Work(stage="prioritized policy", visits=tuple(visits), accumulates=True)


def _rates(accepted: Span, rates: Sequence[float]) -> list[float]:
    """The nearest rates of the grid: likely, low, high."""
    wanted = (accepted.likely, accepted.low, accepted.high)
    return [min(rates, key=lambda rate: abs(rate - by)) for by in wanted]


def _layers_needed(outset: Outset, accepted: float) -> list[int]:
    """Points that are measured of each layer, alone, until enough has left at an accepted rate.

    Where a gentler rate meets the budget it is measured alone; else all from the deepest down.
    """
    rates, multiple = outset.settings.rates, outset.settings.channel_multiple
    widths: dict[str, int] = {}
    points: list[int] = []
    for group in outset.groups:
        for rate in (each for each in rates if each <= accepted):
            narrowed = {**widths, group.name: kept_width(group, rate, multiple=multiple)}
            if 1.0 - outset.share_of(narrowed) >= outset.leaving:
                return [*points, 1]
        widths[group.name] = kept_width(group, accepted, multiple=multiple)
        points.append(sum(rate >= accepted for rate in rates))
    return points


def _sensitivity(outset: Outset) -> list[Work]:
    """Rounds in which every layer is narrowed further, each an eighth of the bytes later."""
    rounds = max(1, math.ceil(outset.leaving / STAGE_SHARE - 1e-9))
    images = Span.exactly(min(curve_images(outset.settings), outset.images))
    found = []
    for number in range(rounds):
        gone = number * STAGE_SHARE
        base = Visit(
            step="greedy", group=None, candidates=Span.exactly(1.0), images=images, share=1.0 - gone
        )
        visits = (
            Visit(
                step="greedy",
                group=group.name,
                candidates=_points(outset, group, number, rounds),
                images=images,
                share=1.0 - gone,
                around_dense=number == 0,
            )
            for group in outset.groups
        )
        found.append(Work(stage="sensitivity", visits=(base, *visits)))
    return found


def _points(outset: Outset, group: Group, number: int, rounds: int) -> Span:
    """Points of a layer's curve that a round of the greedy policy measures."""
    if not number:
        return Span(_FIRST, 1.0, _GREEDY_POINTS)
    gone = number * STAGE_SHARE
    early = group.name in outset.early
    likely = (0.0 if gone < _DEAR_UNTIL else _LATER_OF_EARLY) if early else _LATER
    # The last round ends with the budget, and is not needed where constant channels left much.
    is_last = number == rounds - 1
    whole = min(1.0, (outset.leaving - gone) / STAGE_SHARE) if is_last else 1.0
    return Span(likely * whole, 0.0 if is_last or early else 1.0, _LATER_POINTS)


def _on_path(outset: Outset) -> Work:
    """The first plan within the budget; where it loses too much, bisection for the deepest."""
    policy = outset.settings.policy
    bisected = 1.0 + math.log2(max(2.0, 32.0 * outset.leaving * len(outset.groups)))
    visit = Visit(
        step=policy,
        group=None,
        candidates=Span(1.0, 1.0, bisected),
        images=images_seen(
            outset.settings, _kept_by_greedy(outset) if policy == "greedy" else _KEPT, outset.images
        ),
        share=1.0 - outset.leaving,
    )
    return Work(stage=f"{policy} policy", visits=(visit,))


def _kept_by_greedy(outset: Outset) -> tuple[float, float]:
    """Drop and discordant share of a plan of the greedy policy, between two that were seen."""
    (little, *first), (much, *last) = _KEPT_BY_GREEDY
    at = min(1.0, max(0.0, (outset.leaving - little) / (much - little)))
    drop, discordant = (low + at * (high - low) for low, high in zip(first, last, strict=True))
    return drop, discordant
