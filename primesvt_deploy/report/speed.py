"""How much faster the shipped model runs, with its interval, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primesvt_deploy.report.numbers import DASH, fixed, number

__all__ = ["disturbances", "speed_in_words", "speed_sentence"]

_TIMES = "\N{MULTIPLICATION SIGN}"
_SAME = "the same model"
_DISTURBED = ("machine busy", "noisy", "not stable", "virtual machine", "load", "throttl", "hot")
"""How notes begin that cast doubt on a measurement; others name a setting of the machine."""


def speed_in_words(latency: Mapping[str, Any] | None) -> str:
    """How much faster, with its interval, or `no difference shown`; a dash: not measured."""
    ratio = number((latency or {}).get("ratio_median"))
    if not latency or not ratio:
        return _SAME if latency and latency.get("dense") == latency.get("shipped") else DASH
    low, high = _interval(latency)
    if low is not None and high is not None and low <= 1.0 <= high:
        return f"no difference shown: {_ratio(ratio)} [{fixed(low, 2)}, {fixed(high, 2)}]"
    faster = ratio >= 1.0
    words = f"{_ratio(ratio if faster else 1 / ratio)} {'faster' if faster else 'slower'}"
    if low is None or high is None:
        return words
    ends = (low, high) if faster else (1 / high, 1 / low)
    return f"{words} [{fixed(ends[0], 2)}, {fixed(ends[1], 2)}]"


def disturbances(latency: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Disturbances of a measurement, the beginning of each note: `machine busy`, `noisy`."""
    notes = [str(note) for note in (latency or {}).get("notes") or ()]
    found = [note.partition(":")[0] for note in notes if note.startswith(_DISTURBED)]
    return tuple(dict.fromkeys(found))


def speed_sentence(latency: Mapping[str, Any] | None) -> str:
    """The speed, and how far it can be trusted."""
    if not latency or number(latency.get("ratio_median")) is None:
        return "The dense model is shipped as it was." if speed_in_words(latency) == _SAME else ""
    if _interval(latency)[0] is None:
        return f"Shipped against dense: {speed_in_words(latency)}; no interval was measured."
    return f"Shipped against dense: {speed_in_words(latency)}."


def _interval(latency: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Interval of the dense model's time over the shipped one's."""
    low, high = latency.get("ratio_interval95") or (None, None)
    return number(low), number(high)


def _ratio(ratio: float) -> str:
    return f"{fixed(ratio, 2)} {_TIMES}"
