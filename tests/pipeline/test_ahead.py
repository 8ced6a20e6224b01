"""Stages that are still to come, before any of them has run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from listed_images import STEPS, Counting, image_files

from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline import ahead
from primesvt_deploy.pipeline.ahead_of_build import build_ahead
from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.settings import BuildSettings, ComputeSettings, Precision, SearchSettings

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


def test_images_in_files_are_read_before_they_are_used(
    search: SearchContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "loading_workers", lambda count: 2)
    images = image_files(tmp_path, 150)
    sets = replace(search.image_sets(), search=images, held_out=images.first(20))
    pace = replace(search.pace, decode_s=0.5)
    context = replace(search, images=sets, measured_pace=pace)
    settings = BuildSettings(saving=50.0, search=SEARCH)
    names = [each.name for each in build_ahead(BuildContext(settings=settings, search=context))]
    # Of the held-out images there are too few to make a stage of.
    assert names[0] == "reading images" and names.count("reading images") == 1
    (stage,) = ahead.search_reading_ahead(context)
    assert stage.span.likely == pytest.approx(150 * 0.5 / 2)
    points = ahead.frontier_ahead(replace(context, images=sets), images, (20.0, 40.0), ())
    names = [each.name for each in points]
    assert [name for name in names if name.startswith(("reading", "held-out"))] == [
        "reading images", "reading images",  # of the search, and of the held-out split
        "held-out, 20% saved", "held-out, dense", "held-out, 40% saved",
    ]  # fmt: skip
    alone = replace(context, compute=ComputeSettings(workers=2))
    assert ahead.search_reading_ahead(alone) == []  # workers decode their own


def test_an_image_is_decoded_once_to_see_what_it_takes(
    search: SearchContext, tmp_path: Path
) -> None:
    assert search.measure(seconds=0.1).decode_s == 0.0  # of arrays
    channels, height, width = search.model.config.input_shape
    assert channels == STEPS.channels
    files = image_files(tmp_path, 40, replace(STEPS, height=height, width=width, resize=height))
    seen = Counting(files.decode)
    images = replace(files, decode=seen)
    context = replace(search, images=replace(search.image_sets(), search=images))
    pace = context.measure(seconds=0.1)
    assert pace.decode_s > 0.0
    assert max(Counter(seen.seen).values()) <= 2  # alone, and for the cache of the measurement


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
