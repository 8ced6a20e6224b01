"""A judge whose accuracies are computed from a plan, without a model or an image.

Policies are tested against it in milliseconds. A group's loss is a function of the channels that
left it; a plan loses the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, cast

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.pruning.search.space import SearchSpace

__all__ = ["AnalyticJudge", "RankedSpace", "group", "size_under"]

Loss = Callable[[Sequence[int]], float]
"""Points lost once these channels of a group are gone."""
_IMAGES = 10_000


@dataclass
class AnalyticJudge:
    """Loses `loss[group](removed channels)` points for each group.

    Args:
        groups: of the search space.
        loss: by the group's name; a number is points a channel.
        candidates: those judged so far, in order, each once.
    """

    groups: tuple[Group, ...]
    loss: Mapping[str, Loss | float]
    candidates: list[Candidate] = field(default_factory=list)
    _cache: dict[tuple[str, int], Candidate] = field(default_factory=dict)

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
        key = plan.digest, limit or _IMAGES
        if key not in self._cache:
            points = self.points(plan)
            self._cache[key] = Candidate(
                plan=plan.digest, limit=_IMAGES, step=step, group=group.name if group else "",
                rate=rate, kept=plan.widths([group])[group.name] if group else 0,
                correct=0, lost=round(points * _IMAGES / 100), gained=0, n=_IMAGES,
                seconds=0.0, divergence=points / 100,
                channels=plan.packed(self.groups),
            )  # fmt: skip
            self.candidates.append(self._cache[key])
        return self._cache[key]

    def judge_all(self, queries: Sequence[Query]) -> Iterator[Candidate]:
        for query in queries:
            yield self.judge(**{f.name: getattr(query, f.name) for f in fields(query)})

    def points(self, plan: Plan) -> float:
        total = 0.0
        for group in self.groups:
            kept = plan[group.name]
            gone = [] if kept is None else sorted(set(range(group.width)) - set(kept))
            loss = self.loss[group.name]
            total += loss(gone) if callable(loss) else loss * len(gone)
        return min(total, 100.0)

    @property
    def asked(self) -> list[tuple[str, str, float]]:
        """Step, group and rate of each candidate."""
        return [(c.step, c.group, c.rate) for c in self.candidates]


class RankedSpace(SearchSpace):
    """A space of made-up groups, whose last channels leave first."""

    def __init__(self, groups: Sequence[Group], channel_multiple: int = 1) -> None:
        super().__init__(cast(SViT, None), groups, channel_multiple=channel_multiple)

    @cached_property
    def by_norm(self) -> ChannelRanking:
        return self.ranked(
            {g.name: -torch.arange(g.width, dtype=torch.float64) for g in self.groups}
        )


def group(name: str, width: int = 10, size: int = 0, heads: int = 1) -> Group:
    values: dict[str, Any] = {"outputs": (f"{name}.conv",), "norms": (), "inputs": ()}
    return Group(
        name=name, root=f"{name}.conv", width=width, heads=heads, size=size or 100 * width, **values
    )


def size_under(groups: Sequence[Group]) -> Callable[[Plan], int]:
    """Bytes in proportion to each group's width."""

    def size_of(plan: Plan) -> int:
        widths = plan.widths(groups)
        return sum(group.size * widths[group.name] // group.width for group in groups)

    return size_of
