"""Stages that are still to come, before any of them has run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead_of_build import build_ahead
from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.settings import BuildSettings, Precision, SearchSettings

SEARCH = SearchSettings(policy="greedy")


@pytest.fixture
def search(tiny: SViT, tiny_data: DataSet) -> SearchContext:
    found = unjudged_context(tiny, SEARCH, tiny_data)
    return replace(found, measured_pace=found.measure(seconds=0.1))


@pytest.mark.parametrize(
    ("saving", "precision", "rounds"), [(10, "fp32", 1), (50, "fp32", 4), (80, "int8", 2)]
)
def test_the_more_has_to_leave_the_more_often_greedy_measures(
    search: SearchContext, saving: float, precision: str, rounds: int
) -> None:
    settings = BuildSettings(saving=saving, search=SEARCH, precision=Precision(precision))
    stages = build_ahead(BuildContext(settings=settings, search=search))
    found = [stage for stage in stages if stage.name == "sensitivity"]
    assert len(found) == rounds
    assert all(stage.images > 0.0 and stage.image_s for stage in found)


def test_where_nothing_has_to_leave_no_search_is_planned(search: SearchContext) -> None:
    settings = BuildSettings(budget_mb=50.0, search=SEARCH)
    names = {stage.name for stage in build_ahead(BuildContext(settings=settings, search=search))}
    assert "held-out accuracy" in names and "sensitivity" not in names


def test_seconds_are_known_before_anything_ran(search: SearchContext) -> None:
    settings = BuildSettings(saving=50.0, search=SEARCH)
    for stage in build_ahead(BuildContext(settings=settings, search=search)):
        assert stage.images * (stage.image_s or 0.0) + stage.seconds == pytest.approx(
            stage.span.likely
        ), stage.name
