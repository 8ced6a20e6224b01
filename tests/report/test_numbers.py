"""Numbers in words."""

from __future__ import annotations

import pytest
from html_page import PLAIN

from primesvt_deploy.report import numbers
from primesvt_deploy.report.speed import speed_in_words


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (71_234, "71.2 KB"),
        (4_187_654, "4.19 MB"),
        (2_500_000_000, "2.50 GB"),
    ],
)
def test_sizes_have_digits_enough_to_differ(value: int, told: str) -> None:
    assert numbers.size(value).translate(PLAIN) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(12.34, "12.3 pJ"), (4.2e3, "4.20 nJ"), (8.8e7, "88.00 µJ"), (3e9, "3.00 mJ")],
)
def test_energies(value: float, told: str) -> None:
    assert numbers.energy(value).translate(PLAIN) == told


def test_signs() -> None:
    assert numbers.signed(1.25, 1).translate(PLAIN) == "+1.2"
    assert numbers.signed(-0.01, 1) == "0.0"
    assert numbers.interval([0.31, 1.39], 1, -1.0).translate(PLAIN) == "[-1.4, -0.3]"  # type: ignore[union-attr]
    assert numbers.interval([1, "2"]) is None
    assert (numbers.points(1), numbers.points(-0.3, 1)) == ("1.00 point", "−0.3 points")  # noqa: RUF001


@pytest.mark.parametrize(
    ("ratio", "interval", "told"),
    [
        (1.314, None, "1.31 x faster"),
        (0.5, None, "2.00 x slower"),
        (1.314, [1.2, 1.44], "1.31 x faster [1.20, 1.44]"),
        (0.5, [0.4, 0.8], "2.00 x slower [1.25, 2.50]"),
        (2.06, [0.9, 6.49], "no difference shown: 2.06 x [0.90, 6.49]"),
        (None, None, "–"),  # noqa: RUF001
    ],
)
def test_speed(ratio: float | None, interval: list[float] | None, told: str) -> None:
    latency = {"ratio_median": ratio, "ratio_interval95": interval, "dense": 1, "shipped": 2}
    assert speed_in_words(latency).translate(PLAIN) == told


def test_one_model_has_one_speed() -> None:
    times = {"median_ms": 1.0, "p95_ms": 2.0}
    assert speed_in_words({"dense": times, "shipped": times}) == "the same model"
