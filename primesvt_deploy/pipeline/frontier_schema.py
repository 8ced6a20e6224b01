"""The schema of `frontier.json`, checked before anything is computed with what a file holds."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

import msgspec

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.errors import SettingsError, first_line
from primesvt_deploy.settings import SearchSettings

__all__ = ["SCHEMA", "check_begun", "check_finished", "search_settings"]

SCHEMA = 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Name = Annotated[str, msgspec.Meta(max_length=1000)]
_Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


class _Accuracy(msgspec.Struct):
    top1_percent: _Number
    interval95_percent: tuple[_Number, _Number]
    correct: _Count
    n: _Count


class _Drop(msgspec.Struct):
    points: _Number
    interval95_points: tuple[_Number, _Number]
    lost: _Count
    gained: _Count
    n: _Count


class _Latency(msgspec.Struct):
    median_ms: _Number
    p95_ms: _Number


class _AtTimesteps(msgspec.Struct):
    T: _Count
    held_out: _Accuracy
    drop: _Drop
    latency: _Latency


class _Key(msgspec.Struct):
    plan_digest: _Name
    n: _Count
    T: list[_Count]


class _Cost(msgspec.Struct):
    evaluations: _Count
    images: _Count
    seconds: _Number


class _Point(msgspec.Struct, kw_only=True):
    key: _Key
    asked_saving_percent: _Number
    met: bool
    stopped_by: _Name
    saved_percent: _Number
    weight_bytes: _Count
    widths: dict[_Name, _Count]
    channels: dict[_Name, str]
    search: _Drop | None
    held_out: _Accuracy
    drop: _Drop
    timesteps: list[_AtTimesteps] = []
    cost: _Cost
    pareto: bool = False


class _Dense(msgspec.Struct):
    weight_bytes: _Count
    search: _Accuracy
    held_out: _Accuracy
    timesteps: list[_AtTimesteps] = []


class _Begun(msgspec.Struct, kw_only=True):
    """The file of an interrupted call: its points, and what is read when the same call goes on."""

    schema: Literal[1]
    question: _Name
    policy: _Name
    points: list[_Point]
    dense: _Dense | msgspec.UnsetType = msgspec.UNSET


class _Finished(_Begun, kw_only=True):
    """The file of a call that has ended."""

    model: _Name
    data: _Name
    settings: dict[str, Any]
    dense: _Dense
    seconds: _Number


def check_begun(content: Any) -> dict[str, Any]:
    """Refuse a parsed `frontier.json` from which a call cannot go on.

    Raises:
        ValueError: what is wrong, in one line.
    """
    return _checked(content, _Begun)


def check_finished(content: Any) -> dict[str, Any]:
    """Refuse a parsed `frontier.json` that no call has finished.

    Raises:
        ValueError: what is wrong, in one line.
    """
    return _checked(content, _Finished)


def search_settings(values: dict[str, Any]) -> SearchSettings:
    """The inverse of `SearchSettings.to_dict`.

    Raises:
        ValueError: unknown settings, or values that cannot be, in one line.
    """
    unknown = values.keys() - {field.name for field in fields(SearchSettings)}
    if unknown:
        raise ValueError(f"there is no setting {on_one_line(min(unknown)[:40])}")
    try:
        msgspec.convert(values, SearchSettings)
    except (msgspec.ValidationError, SettingsError) as error:
        raise ValueError(on_one_line(first_line(error))) from error
    # Not what was converted: an integer for a float would be a float, and the search key another.
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return SearchSettings(**given)


def _checked(content: Any, schema: type[_Begun]) -> dict[str, Any]:
    try:
        msgspec.convert(content, schema)
    except msgspec.ValidationError as error:
        raise ValueError(on_one_line(first_line(error))) from error
    checked: dict[str, Any] = content
    return checked
