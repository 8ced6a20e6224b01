"""The greedy policy's walk against a judge whose divergences are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from pruning.policies.analytic import AnalyticJudge, Loss, RankedSpace, group, size_under
from recorded_progress import Recorded

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import greedy
from primesvt_deploy.pruning.policies.base import Search
from primesvt_deploy.pruning.policies.greedy import _Curve, _Walk
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.settings import SearchSettings

SHAPES: dict[str, Callable[[float, Sequence[int]], float]] = {
    "even": lambda dear, gone: 0.1 * dear * len(gone),
    "rising": lambda dear, gone: 0.01 * dear * len(gone) ** 2,
    "idle at first": lambda dear, gone: dear * max(0, len(gone) - 20),
    "dear at first": lambda dear, gone: dear * min(1, len(gone)),
    "noisy": lambda dear, gone: dear * (0.1 * len(gone) + 0.5 * (len(gone) % 3)),
    "free": lambda dear, gone: 0.0,
}
"""Points lost with so many of 32 channels gone."""


class Eager(_Walk):
    """A walk that measures all curves whole."""

    def _curves(
        self, plan: Plan, fractions: Sequence[float], last: Sequence[_Curve]
    ) -> list[_Curve]:
        curves = super()._curves(plan, fractions, last)
        (base,) = self._search.judge.judge_all([self._query(plan)])
        while left := [curve for curve in curves if curve.next is not None]:
            self._measure(plan, base, left)
        return curves


def search_of(groups: tuple[Group, ...], losses: dict[str, Loss]) -> tuple[Search, AnalyticJudge]:
    judge = AnalyticJudge(groups, losses)
    search = Search(
        judge=judge,
        space=RankedSpace(groups),
        settings=SearchSettings(max_drop=None),
        constraint=AccuracyConstraint(None),
        size_of=size_under(groups),
        progress=Recorded(),  # which refuses more steps than a stage said
    )
    return search, judge


@given(
    layers=st.lists(
        st.tuples(st.sampled_from(sorted(SHAPES)), st.floats(0.01, 3.0), st.integers(5, 100)),
        min_size=1,
        max_size=6,
    ),
    budget=st.floats(0.1, 0.95),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_curves_measured_as_far_as_needed_lead_along_the_path_of_whole_ones(
    layers: list[tuple[str, float, int]], budget: float
) -> None:
    groups = tuple(group(f"layer{i}", 32, 32 * size) for i, (_, _, size) in enumerate(layers))
    losses: dict[str, Loss] = {
        each.name: partial(SHAPES[shape], dear)
        for each, (shape, dear, _) in zip(groups, layers, strict=True)
    }
    paths, judged = [], []
    with patch.object(greedy, "_MOST_SHRUNK", math.inf):  # earlier curves tell nothing
        for kind in (_Walk, Eager):
            search, judge = search_of(groups, losses)
            size = int(budget * search.size_of(Plan()))
            paths.append(kind(search, search.space.by_norm).until(size))
            judged.append({candidate.plan for candidate in judge.candidates})
    assert paths[0] == paths[1]
    assert judged[0] <= judged[1]


def test_layers_that_are_dear_all_along_are_measured_once() -> None:
    groups = (group("cheap", 32, 32_000), *(group(f"dear{i}", 32, 3200) for i in range(4)))
    losses: dict[str, Loss] = {each.name: 1.0 for each in groups} | {"cheap": 0.001}
    search, judge = search_of(groups, losses)
    path = _Walk(search, search.space.by_norm).until(int(0.5 * search.size_of(Plan())))
    assert {name for name, kept in path[-1].kept} == {"cheap"}
    asked = [name for _, name, _ in judge.asked if name]
    assert {name: asked.count(name) for name in asked} == {
        "cheap": 12, "dear0": 1, "dear1": 1, "dear2": 1, "dear3": 1
    }  # fmt: skip
