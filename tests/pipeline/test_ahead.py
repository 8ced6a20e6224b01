"""Stages that are still to come, before anything is measured."""

from __future__ import annotations

import pytest

from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead import build_ahead
from primesvt_deploy.pipeline.context import BuildContext, search_context
from primesvt_deploy.settings import BuildSettings, Precision, SearchSettings


@pytest.mark.parametrize(
    ("saving", "precision", "rounds"), [(10, "fp32", 1), (50, "fp32", 4), (80, "int8", 2)]
)
def test_the_more_has_to_leave_the_longer_greedy_measures(
    tiny: SViT, tiny_data: DataSet, saving: float, precision: str, rounds: int
) -> None:
    search = SearchSettings(policy="greedy")
    found = search_context(tiny, search, tiny_data)

    def work(settings: BuildSettings) -> float:
        stages = build_ahead(BuildContext(settings=settings, search=found))
        (sensitivity,) = [stage for stage in stages if stage.name == "sensitivity"]
        return sensitivity.images

    least = work(BuildSettings(saving=1.0, search=search))
    asked = BuildSettings(saving=saving, search=search, precision=Precision(precision))
    assert least > 0.0
    assert work(asked) == pytest.approx(rounds * least)
