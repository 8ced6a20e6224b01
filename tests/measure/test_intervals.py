"""Intervals against published values, closed forms and what they promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.measure.intervals import Accuracy, PairedDrop, wilson_interval

Z95 = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 10, 5000])
def test_wilson_of_none_and_of_all_in_closed_form(n: int) -> None:
    share = Z95**2 / (n + Z95**2)
    assert wilson_interval(0, n) == pytest.approx((0.0, share), abs=1e-12)
    assert wilson_interval(n, n) == pytest.approx((1.0 - share, 1.0), abs=1e-12)


def test_wilson_of_nothing_tells_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.floats(0.5, 4.0))
def test_wilson_bounds_are_where_the_score_test_rejects(count: tuple[int, int], z: float) -> None:
    """At a bound p0, |p - p0| is z standard errors under p0: Wilson's definition."""
    successes, n = count
    p = successes / n
    low, high = wilson_interval(successes, n, z)
    assert 0.0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1.0
    for bound in (low, high):
        error = z * math.sqrt(bound * (1.0 - bound) / n)
        if 1e-9 < bound < 1.0 - 1e-9:
            assert abs(p - bound) == pytest.approx(error, rel=1e-6, abs=1e-9)


@given(COUNTS)
def test_wilson_is_symmetric(count: tuple[int, int]) -> None:
    successes, n = count
    low, high = wilson_interval(successes, n)
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1.0 - high, 1.0 - low), abs=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.76, 0.98])
def test_wilson_covers_the_truth_as_often_as_it_promises(share: float) -> None:
    """Its coverage is 95% on average over shares; the score interval stays near it anywhere."""
    n = 400
    draws = np.random.default_rng(0).binomial(n, share, 4000)
    inside = {
        k: low <= share <= high
        for k in set(draws.tolist())
        for low, high in [wilson_interval(k, n)]
    }
    assert np.mean([inside[k] for k in draws.tolist()]) == pytest.approx(0.95, abs=0.015)


def test_accuracy_of_flags() -> None:
    accuracy = Accuracy.of(np.array([True, True, False, True]))
    assert accuracy == Accuracy(3, 4)
    assert accuracy.percent == 75.0
    assert accuracy.interval == pytest.approx([100 * x for x in wilson_interval(3, 4)])


def test_accuracy_in_words_and_json() -> None:
    accuracy = Accuracy(3766, 5000)
    assert str(accuracy) == "75.32% [74.1, 76.5] (n=5000)"
    values = json.loads(json.dumps(accuracy.to_dict()))
    assert values["top1_percent"] == 75.32
    assert (values["correct"], values["n"]) == (3766, 5000)
    low, high = values["interval95_percent"]
    assert low < 75.32 < high


def test_accuracy_of_nothing() -> None:
    assert Accuracy(0, 0).percent == 0.0
    assert Accuracy(0, 0).interval == (0.0, 100.0)


def test_paired_drop_counts_what_was_lost_and_gained() -> None:
    reference = np.array([True, True, True, False, False, True])
    candidate = np.array([True, False, False, True, False, True])
    drop = PairedDrop.of(reference, candidate)
    assert drop == PairedDrop(lost=2, gained=1, n=6)
    assert drop.points == pytest.approx(100 / 6)


def test_paired_drop_is_over_the_images_the_candidate_has_seen() -> None:
    reference = np.array([True, True, False, True])
    assert PairedDrop.of(reference, np.array([False, True])) == PairedDrop(1, 0, 2)


def test_paired_drop_is_the_difference_of_the_accuracies() -> None:
    generator = np.random.default_rng(0)
    reference, candidate = generator.random((2, 500)) < 0.7
    drop = PairedDrop.of(reference, candidate).points
    assert drop == pytest.approx(
        Accuracy.of(reference).percent - Accuracy.of(candidate).percent, abs=1e-9
    )


def test_paired_interval_in_closed_form() -> None:
    """Agresti and Min 2005: Wald's interval with half a count added to each of four cells."""
    lost, gained, n = 52, 21, 1000
    b, c, total = lost + 0.5, gained + 0.5, n + 2.0
    centre = (b - c) / total
    error = Z95 * math.sqrt(b + c - (b - c) ** 2 / total) / total
    assert PairedDrop(lost, gained, n).interval() == pytest.approx(
        (100 * (centre - error), 100 * (centre + error)), abs=1e-10
    )


def test_paired_interval_of_equal_answers_still_has_a_width() -> None:
    low, high = PairedDrop(0, 0, 100).interval()
    assert low == -high
    assert 1.0 < high < 3.0


def test_paired_drop_of_nothing() -> None:
    drop = PairedDrop(0, 0, 0)
    assert drop.points == 0.0
    low, high = drop.interval()
    assert low < -90 and high > 90


def test_paired_interval_narrows_with_images() -> None:
    widths = [high - low for low, high in (PairedDrop(k, k, 50 * k).interval() for k in (2, 8, 32))]
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


@pytest.mark.parametrize(("lost", "gained"), [(0.06, 0.03), (0.02, 0.02), (0.15, 0.01)])
def test_paired_interval_covers_the_truth_as_often_as_it_promises(
    lost: float, gained: float
) -> None:
    n = 1000
    draws = np.random.default_rng(1).multinomial(n, [lost, gained, 1 - lost - gained], 2000)
    truth = 100 * (lost - gained)
    inside = [
        low <= truth <= high
        for low, high in (PairedDrop(int(b), int(c), n).interval() for b, c, _ in draws)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_paired_drop_in_words_and_json() -> None:
    drop = PairedDrop(52, 21, 1000)
    low, high = drop.interval()
    assert str(drop) == f"3.10 points [{low:.2f}, {high:.2f}]"
    assert json.loads(json.dumps(drop.to_dict())) == {
        "points": 3.1,
        "interval95_points": [round(low, 4), round(high, 4)],
        "lost": 52,
        "gained": 21,
        "n": 1000,
    }


def test_surely_exceeds_by_examples() -> None:
    assert PairedDrop(200, 0, 1000).surely_exceeds(3.0, z=3.0)
    assert not PairedDrop(31, 0, 1000).surely_exceeds(3.0, z=3.0), "3.1 points may be noise"
    assert not PairedDrop(3, 0, 10).surely_exceeds(3.0, z=3.0), "10 images tell little"
    assert not PairedDrop(0, 200, 1000).surely_exceeds(3.0, z=3.0), "it became better"


DROPS = st.integers(2, 5000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n)).flatmap(
        lambda pair: st.tuples(
            st.just(pair[0]), st.integers(0, pair[1] - pair[0]), st.just(pair[1])
        )
    )
)


@given(DROPS, st.floats(0.0, 50.0), st.floats(0.0, 20.0), st.floats(0.0, 4.0), st.floats(0.0, 2.0))
def test_surely_exceeds_is_monotone_in_limit_and_certainty(
    counts: tuple[int, int, int], max_drop: float, more_drop: float, z: float, more_z: float
) -> None:
    drop = PairedDrop(*counts)
    if drop.surely_exceeds(max_drop + more_drop, z):
        assert drop.surely_exceeds(max_drop, z)
    if drop.surely_exceeds(max_drop, z + more_z):
        assert drop.surely_exceeds(max_drop, z)


@given(DROPS, st.floats(0.0, 50.0), st.floats(0.0, 4.0))
def test_surely_exceeds_is_monotone_in_the_images_lost(
    counts: tuple[int, int, int], max_drop: float, z: float
) -> None:
    lost, gained, n = counts
    if lost + gained < n and PairedDrop(lost, gained, n).surely_exceeds(max_drop, z):
        assert PairedDrop(lost + 1, gained, n).surely_exceeds(max_drop, z)
    if gained and PairedDrop(lost, gained, n).surely_exceeds(max_drop, z):
        assert PairedDrop(lost, gained - 1, n).surely_exceeds(max_drop, z)


def test_a_drop_at_the_limit_is_hardly_ever_called_hopeless() -> None:
    """At z = 3 a candidate that loses exactly what it may is cut off in about 0.1% of draws."""
    n, lost, gained = 1000, 0.05, 0.02
    draws = np.random.default_rng(2).multinomial(n, [lost, gained, 1 - lost - gained], 4000)
    wrong = [PairedDrop(int(b), int(c), n).surely_exceeds(3.0, 3.0) for b, c, _ in draws]
    assert np.mean(wrong) < 0.005
