"""Sizes in megabytes with as many digits as tell them apart."""

from __future__ import annotations

__all__ = ["millions"]

_FEWEST, _MOST = 2, 6


def millions(*counts: float) -> tuple[str, ...]:
    """Counts in millions, such as bytes in MB, all with the same number of decimals.

    There are two decimals, or more: until counts that differ read differently, and the smallest
    has two digits that are not leading zeros. Six decimals are single bytes.

    Args:
        counts: what is shown side by side.
    """
    for decimals in range(_FEWEST, _MOST + 1):
        found = tuple(f"{count / 1e6:.{decimals}f}" for count in counts)
        least = min((abs(count) for count in counts if count), default=1e6)
        if len(set(found)) == len(set(counts)) and least >= 10.0 ** (7 - decimals):
            break
    return found
