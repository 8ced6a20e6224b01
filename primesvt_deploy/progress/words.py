"""Times and counts as progress shows them."""

from __future__ import annotations

__all__ = ["about", "clock", "count_of", "seconds_taken"]

_BYTES = "bytes"


def clock(seconds: float) -> str:
    """Time on a clock: `2:31`, or `1:02:31` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_taken(seconds: float) -> str:
    """Time that something took: `95.2 s`, or `12 min` from ten minutes on."""
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def about(seconds: float) -> str:
    """A time that is only estimated, as coarse as an estimate is: `about 4 min`."""
    if seconds < 55:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < 60 * 20:
        return f"about {max(1, round(seconds / 60))} min"
    if seconds < 60 * 115:
        return f"about {5 * round(seconds / 300)} min"
    return f"about {seconds / 3600:.1f} h"


def count_of(done: int, total: int, unit: str, *, all_done: bool = False) -> str:
    """A count: `43/180 points`, of bytes in MB; of what is `all_done` only the total.

    Args:
        done: how many are done.
        total: of how many; 0: unknown.
        unit: their name in the plural.
        all_done: leave `done` out where it equals `total`.
    """
    if unit == _BYTES:
        numbers, unit = (f"{done / 1e6:.1f}", f"{total / 1e6:.1f}"), "MB"
    else:
        numbers = f"{done:,}", f"{total:,}"
    if not total or (all_done and done == total):
        if done == 1 and unit.endswith("s"):
            unit = unit.removesuffix("s")
        return f"{numbers[0]} {unit}"
    return f"{numbers[0]}{' of ' if all_done else '/'}{numbers[1]} {unit}"
