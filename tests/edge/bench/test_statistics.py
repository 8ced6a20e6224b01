from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.edge.bench.statistics import (
    Ratio,
    histogram,
    paired_ratio,
    summary,
    unpaired_ratio,
)


def noisy(seed: int, *, ms: float, drift: np.ndarray, rounds: int = 20) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    return [list(ms * drift[r] * (1 + 0.02 * generator.random(10))) for r in range(rounds)]


def test_a_pair_measured_in_turns_is_distinguished_under_drift() -> None:
    drift = np.linspace(1.0, 1.6, 20)  # a machine that gets hotter
    slow, fast = noisy(0, ms=10.5, drift=drift), noisy(1, ms=10.0, drift=drift)
    ratio = paired_ratio(slow, fast)
    assert ratio.low < 1.05 < ratio.high
    assert ratio.low > 1.03  # the drift, of 60%, does not blur a difference of 5%


def test_equal_times_apart_are_within_the_interval() -> None:
    still = np.ones(20)
    ratio = unpaired_ratio(noisy(0, ms=10, drift=still), noisy(1, ms=10, drift=still))
    assert ratio.low <= 1.0 <= ratio.high
    assert ratio.high - ratio.low < 0.02


@given(st.lists(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=9), min_size=1, max_size=9))
def test_a_summary_is_ordered_and_a_histogram_counts_each_run_once(
    rounds: list[list[float]],
) -> None:
    found = summary(rounds)
    assert found["n"] == sum(map(len, rounds))
    assert found["min"] <= found["median"] <= found["p95"]
    assert found["p99"] is None  # of fewer than 100 runs it would be a guess
    bins = histogram(rounds)
    assert sum(bins["counts"]) + bins["above"] == found["n"]
    assert len(bins["edges_ms"]) == len(bins["counts"]) + 1


def test_p99_of_many_runs() -> None:
    found = summary([list(range(1, 101)), list(range(101, 201))])
    assert found["p99"] == pytest.approx(198.01)
    assert found["median"] == 100.5


@given(st.floats(0.2, 5.0))
def test_swapping_sides_inverts_a_paired_ratio(factor: float) -> None:
    one = noisy(0, ms=10 * factor, drift=np.ones(8), rounds=8)
    other = noisy(1, ms=10, drift=np.ones(8), rounds=8)
    assert paired_ratio(one, other).time == pytest.approx(1 / paired_ratio(other, one).time)


def test_a_ratio_reads_as_speed() -> None:
    assert str(Ratio(time=0.5, low=0.4, high=0.8)) == "2.00x faster [1.25, 2.50]"
    assert str(Ratio(time=1.25, low=1.2, high=1.3)) == "1.25x slower [1.20, 1.30]"
    assert str(Ratio(time=1.03, low=0.96, high=1.13)).endswith("no difference shown")
