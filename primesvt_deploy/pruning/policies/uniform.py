"""One rate for all layers; the channels by L2 norm, or at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import Search
from primesvt_deploy.pruning.policies.path import AlongPath
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking

__all__ = ["Random", "Uniform"]

_STEPS = 256


class Uniform(AlongPath):
    """One rate for all layers, channels by L2 norm: where PSViT (Zhang et al., 2025) starts."""

    name = "uniform"

    def path(self, search: Search) -> Sequence[Plan]:
        """Plans at rising rates."""
        return _at_one_rate(search, search.space.by_norm)


class Random(AlongPath):
    """One rate for all layers, channels at random (by the search's seed): a floor."""

    name = "random"

    def path(self, search: Search) -> Sequence[Plan]:
        """Plans at rising rates; each takes channels from the one before."""
        generator = torch.Generator().manual_seed(search.settings.seed)
        scores = {
            group.name: torch.rand(group.width, generator=generator, dtype=torch.float64)
            for group in search.space.groups
        }
        return _at_one_rate(search, search.space.ranked(scores))


def _at_one_rate(search: Search, ranking: ChannelRanking) -> list[Plan]:
    plans: list[Plan] = []
    for step in range(1, _STEPS):
        plan = search.space.without_constants
        for group in search.space.groups:
            narrower = ranking.pruned(Plan(), group, step / _STEPS)[group.name]
            base = search.space.without_constants[group.name]
            if narrower is not None and (base is None or len(narrower) < len(base)):
                plan = plan.replacing(group.name, narrower)
        if plan.kept and (not plans or plan != plans[-1]):
            plans.append(plan)
    return plans
