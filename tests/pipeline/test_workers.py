"""Searches by workers of Ray: the same candidates as in one process, whatever happens to them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ray_sessions import needs_ray

from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search import evaluator, samples
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.pruning.search.robustness import measure_robustness
from primesvt_deploy.pruning.search.worker_engine import WorkerEngine
from primesvt_deploy.settings import ComputeSettings, SearchSettings

pytestmark = needs_ray

SEARCH = SearchSettings(rates=(0.3, 0.7), robustness_images=60, max_drop=5.0)
TWO = ComputeSettings(device="cpu", workers=2)


@pytest.fixture(scope="module", autouse=True)
def several_chunks() -> Iterator[None]:
    """Of so few images all would be one chunk, which all workers hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "CHUNK", 32)
        patch.setattr(samples, "HELD_BY_ALL", 32)
        yield


@pytest.fixture(scope="module")
def expected(model: SViT, data: DataSet) -> list[Candidate]:
    with unjudged_context(model, SEARCH, data, compute=ComputeSettings(device="cpu")) as context:
        return searched(context)


@pytest.fixture(scope="module")
def shared(model: SViT, data: DataSet) -> Iterator[SearchContext]:
    with unjudged_context(model, SEARCH, data, compute=TWO) as context:
        yield context


def searched(context: SearchContext) -> list[Candidate]:
    """Candidates of a small search, their times left out."""
    judge = context.judge
    judge.dense()
    for group in context.prunable.groups[:3]:
        for rate in (0.3, 0.7):
            plan = context.space.by_norm.pruned(Plan(), group, rate)
            judge.judge(plan, step="robustness", group=group, rate=rate, limit=60, allowed=5.0)
            judge.judge(plan, step="policy", divergence=True)
    measure_robustness(
        judge,
        context.prunable.groups[3:6],
        context.space.by_norm,
        AccuracyConstraint(5.0),
        rates=(0.2, 0.6),
        limit=96,
    )
    return [replace(candidate, seconds=0.0) for candidate in context.ledger]


def again(context: SearchContext) -> SearchContext:
    """The same search and workers, with nothing in the ledger."""
    fresh = replace(context, ledger=Ledger())
    fresh.__dict__.update(engine=context.engine, recovery=context.recovery)
    return fresh


@pytest.mark.slow
def test_candidates_are_those_of_one_process(
    shared: SearchContext, expected: list[Candidate]
) -> None:
    assert len({candidate.correct for candidate in expected}) > 3, "the test sees nothing"
    assert searched(again(shared)) == expected


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(
    shared: SearchContext, expected: list[Candidate]
) -> None:
    engine = shared.engine
    assert isinstance(engine, WorkerEngine)
    victims = engine.call_all("process")
    timer = threading.Timer(0.3, os.kill, (victims[1], signal.SIGKILL))
    timer.start()
    found = searched(again(shared))
    timer.join()
    assert found == expected
    assert engine.call_all("process")[1] != victims[1]


@pytest.mark.slow
def test_released_workers_are_started_anew(
    shared: SearchContext, expected: list[Candidate]
) -> None:
    shared.engine.release()
    assert searched(again(shared)) == expected


def test_more_workers_than_images(model: SViT, data: DataSet) -> None:
    compute = ComputeSettings(device="cpu", workers=4000)
    with pytest.raises(SettingsError, match=r"^there are 4000 workers for 120 search images: .*"):
        unjudged_context(model, SEARCH, data, compute=compute)
