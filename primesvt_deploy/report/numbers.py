"""Numbers as people read them: template filters that pass on what is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

__all__ = [
    "DASH",
    "FILTERS",
    "energy",
    "fixed",
    "interval",
    "is_missing",
    "number",
    "points",
    "share",
    "signed",
    "size",
    "timesteps",
]

DASH = "\N{EN DASH}"
"""Stands for a value that is not there."""
_MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_SPACE = "\N{NO-BREAK SPACE}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_missing(value: object) -> bool:
    """Whether there is no value to show; markup of a macro may be empty."""
    empty = value == "" and not isinstance(value, Markup)
    return value is None or empty or isinstance(value, Undefined)


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def fixed(value: float, decimals: int = 0, unit: str = "") -> str:
    """A number such as `12 345.60`, with thin spaces, followed by `unit`."""
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")  # no minus zero
    return text.replace(",", _THIN).replace("-", _MINUS) + unit


def signed(value: float, decimals: int = 1, unit: str = "") -> str:
    """A number with its sign: `+1.2`, `-0.4`, and `0.0` without one."""
    text = fixed(value, decimals)
    return (text if value <= 0 or not text.strip("0.") else f"+{text}") + unit


def _change(saved: float, decimals: int = 1, unit: str = "%") -> str:
    """A saving as a signed change: less is negative."""
    return signed(-saved, decimals, unit)


def size(value: float) -> str:
    """Bytes in the unit that shows three digits or more, such as `4.19 MB` or `71.2 KB`."""
    for unit, factor, decimals in (("GB", 1e9, 2), ("MB", 1e6, 2), ("KB", 1e3, 1)):
        if abs(value) >= factor:
            return fixed(value / factor, decimals, f"{_THIN}{unit}")
    return fixed(value, 0, f"{_THIN}bytes")


def energy(value: float) -> str:
    """Picojoules in a unit of a power of a thousand."""
    for unit, factor in (("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)):
        if abs(value) >= factor:
            return fixed(value / factor, 2, f"{_THIN}{unit}")
    return fixed(value, 1, f"{_THIN}pJ")


def _millions(value: float) -> str:
    return fixed(value / 1e6, 2, f"{_THIN}M")


def share(value: float, decimals: int | None = None) -> str:
    """A share as percent: of a rate as it was given, else with so many decimals."""
    return f"{100 * value:g}%" if decimals is None else fixed(100 * value, decimals, "%")


def points(value: float, decimals: int = 2) -> str:
    """Percentage points, such as `0.80 points`."""
    return fixed(value, decimals, " point" if round(abs(value), decimals) == 1 else " points")


def _lost(drop: float) -> str:
    """A loss in words; below 0 it is a gain: `0.30 points gained`."""
    return f"{points(abs(drop))} {'gained' if round(drop, 2) < 0 else 'lost'}"


def timesteps(value: float) -> str:
    """A number of timesteps, such as `4 timesteps`."""
    return fixed(value, 0, " timestep" if value == 1 else " timesteps")


def _scientific(value: float) -> str:
    """A number times a power of ten, or plain where that is short."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return fixed(value, 0 if value == 0 else 3)
    digits, _, exponent = f"{value:.1e}".partition("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{digits.replace('-', _MINUS)}{_THIN}\N{MULTIPLICATION SIGN}{_THIN}10{power}"


def _duration(value: float) -> str:
    if value < 120:
        return f"{value:.1f}{_THIN}s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes}{_THIN}min {seconds}{_THIN}s"
    return f"{minutes // 60}{_THIN}h {minutes % 60}{_THIN}min"


def interval(value: object, decimals: int = 1, sign: float = 1.0) -> str | None:
    """An interval such as `[74.1, 76.5]`; with `sign` -1 that of the negated number."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = (number(end) for end in value)
    if low is None or high is None:
        return None
    low, high = sorted((sign * low, sign * high))
    return f"[{fixed(low, decimals)},{_SPACE}{fixed(high, decimals)}]"


def _moment(value: object) -> object:
    """An ISO time as `2026-03-01 12:34 UTC`; other values unchanged."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return value
    return moment.strftime("%Y-%m-%d %H:%M %Z").strip()


def _plain(value: object) -> object:
    """Settings of any nesting in one line."""
    if isinstance(value, str) or is_missing(value):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence):
        return ", ".join(str(_plain(item)) for item in value)
    return json.dumps(value, default=str)


def _sentence(value: object) -> object:
    return value if is_missing(value) else f"{str(value).rstrip('. ')}."


def _described(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(str(name).replace("_", " "), _plain(value)) for name, value in pairs]


def _timed(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    pairs = list(pairs)
    total = sum(number(spent) or 0.0 for _, spent in pairs)
    ends = [("in all", total)] if pairs else []
    return [(str(stage), _numeric(_duration)(spent)) for stage, spent in [*pairs, *ends]]


def _shares(values: object) -> object:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return values
    return ", ".join(str(_numeric(share)(value)) for value in values)


def _numeric(render: Callable[..., str]) -> Callable[..., object]:
    """A filter that renders numbers and passes other values on unchanged."""

    def apply(value: object, *arguments: Any) -> object:
        found = number(value)
        return value if found is None else render(found, *arguments)

    return apply


FILTERS: dict[str, Callable[..., object]] = {
    "fixed": _numeric(fixed),
    "signed": _numeric(signed),
    "change": _numeric(_change),
    "size": _numeric(size),
    "energy": _numeric(energy),
    "millions": _numeric(_millions),
    "share": _numeric(share),
    "points": _numeric(points),
    "lost": _numeric(_lost),
    "timesteps": _numeric(timesteps),
    "sci": _numeric(_scientific),
    "interval": interval,
    "moment": _moment,
    "plain": _plain,
    "sentence": _sentence,
    "described": _described,
    "timed": _timed,
    "shares": _shares,
}
"""Filters of the report's templates, by name."""
