"""Stages and margins of a model that stops early, chosen from results alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.pipeline.ladder import StageResult, choose_ladder, climb


def result(timesteps: int, ms: float, margins: list[float], hits: list[int]) -> StageResult:
    return StageResult(
        timesteps=timesteps,
        milliseconds=ms,
        margins=np.asarray(margins, np.float32),
        hits=np.asarray(hits, bool),
    )


WHOLE = result(4, 10.0, [1, 1, 1, 1], [1, 1, 1, 1])


def test_the_margin_is_the_smallest_that_keeps_the_accuracy() -> None:
    first = result(1, 4.0, [0.1, 0.2, 0.3, 0.4], [1, 0, 1, 1])
    ladder = choose_ladder([first, WHOLE], 0.0)
    assert [stage.timesteps for stage in ladder.stages] == [1, 4]
    assert ladder.stages[0].margin == np.float32(0.3)
    assert [stage.share for stage in ladder.stages] == [0.5, 0.5]
    assert ladder.drop.points == 0.0
    assert ladder.milliseconds == pytest.approx(4.0 + 0.5 * 10.0)
    assert ladder.timesteps == pytest.approx(2.5)
    assert ladder.milliseconds_of(np.asarray([1, 4], np.int32)) == pytest.approx(9.0)
    all_end = choose_ladder([first, WHOLE], 25.0)
    assert all_end.stages[0].share == 1.0 and all_end.drop.points == 25.0


def test_images_of_one_margin_end_together() -> None:
    first = result(1, 1.0, [0.3, 0.3, 0.3, 0.4], [1, 0, 1, 1])
    assert choose_ladder([first, WHOLE], 0.0).stages[0].margin == np.float32(0.4)


def test_a_stage_that_saves_no_time_is_left_out() -> None:
    slow = result(1, 9.9, [0.1, 0.2, 0.3, 0.4], [1, 0, 1, 1])
    ladder = choose_ladder([slow, WHOLE], 0.0)
    assert [stage.timesteps for stage in ladder.stages] == [4]
    assert ladder.milliseconds == 10.0
    wrong = result(1, 1.0, [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0])
    assert len(choose_ladder([wrong, WHOLE], 20.0).stages) == 1
    unknown = result(1, 1.0, [math.nan] * 4, [1, 1, 1, 1])
    assert len(choose_ladder([unknown, WHOLE], 100.0).stages) == 1


def test_two_stages_may_save_more_than_one() -> None:
    first = result(1, 1.0, [0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    second = result(2, 2.0, [0.1, 0.2, 0.9, 0.8], [0, 0, 1, 1])
    ladder = choose_ladder([first, second, WHOLE], 0.0)
    assert [stage.timesteps for stage in ladder.stages] == [1, 2, 4]
    assert [stage.share for stage in ladder.stages] == [0.5, 0.5, 0.0]


STAGES = st.integers(0, 3)


@given(seed=st.integers(0, 10**6), count=STAGES, n=st.integers(1, 60), allowed=st.floats(0.0, 30.0))
def test_no_ladder_loses_more_than_is_allowed(
    seed: int, count: int, n: int, allowed: float
) -> None:
    random = np.random.default_rng(seed)
    results = [
        StageResult(
            timesteps=t + 1,
            milliseconds=float(random.uniform(0.1, 2.0)) * (t + 1),
            margins=random.choice(np.float32([0.0, 0.1, 0.5, 1.5, np.nan]), n)
            if seed % 2
            else random.random(n, np.float32),
            hits=random.random(n) < random.uniform(0.3, 0.9),
        )
        for t in range(count + 1)
    ]
    ladder = choose_ladder(results, allowed)
    assert ladder.drop.points <= allowed + 1e-9
    assert ladder.milliseconds <= results[-1].milliseconds
    chosen = [r for r in results if r.timesteps in {s.timesteps for s in ladder.stages}]
    again = climb(chosen, [stage.margin for stage in ladder.stages[:-1]])
    assert again == ladder
    assert sum(stage.share for stage in ladder.stages) == pytest.approx(1.0)


def test_margins() -> None:
    logits = np.asarray([[1.0, 4.0, 2.5], [3.0, 3.0, 0.0]], np.float32)
    assert margins_of(logits).tolist() == [1.5, 0.0]
    assert margins_of(logits[:, :1]).tolist() == [math.inf, math.inf]
