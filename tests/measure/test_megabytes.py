from __future__ import annotations

import pytest

from primesvt_deploy.measure.megabytes import millions


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ((5_823_000,), ("5.82",)),
        ((4_200_000, 4_200_000), ("4.20", "4.20")),
        ((70_000, 70_400), ("0.0700", "0.0704")),
        ((70_000,), ("0.070",)),
        ((4_500,), ("0.0045",)),
        ((4_200_000, 4_200_001), ("4.200000", "4.200001")),
        ((1_000_000, 999_000), ("1.000", "0.999")),
        ((0, 2_000_000), ("0.00", "2.00")),
        ((1,), ("0.000001",)),
    ],
)
def test_sizes_that_differ_read_differently(
    counts: tuple[int, ...], shown: tuple[str, ...]
) -> None:
    assert millions(*counts) == shown
