"""Values of options in TOML: their types as a JSON schema, and to and from click's values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.cli.option_words import expected, in_words, key_of

__all__ = ["from_toml", "is_comma_list", "schema_of", "to_toml"]

COMMA_LISTS = {
    *("arm", "batches", "finetune-timesteps", "mean", "rates", "recover", "savings"),
    *("ship-timesteps", "stage-heads", "std", "threads"),
}
"""Options of text with commas between, which may be arrays or numbers in TOML. One that is a number
in another command stays a number there."""
NUMBER_OR_WORD = {"fail-if-slower", "max-drop"}
"""Options of text that is a number as a rule, but may be `off`, or end with a percent sign."""
NAME_OR_PATH = {"model"}
"""Options of text that may be a path."""

_LARGEST = 2**63 - 1
"""Integers of TOML have 64 bits; Python's parser reads others too."""
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


def is_comma_list(option: click.Option) -> bool:
    """Whether an option takes text that is a list with commas between."""
    return key_of(option) in COMMA_LISTS and isinstance(option.type, click.types.StringParamType)


def schema_of(option: click.Option) -> dict[str, Any]:
    """JSON schema of an option's value in a file of settings, with its help and its default."""
    schema = _type_of(option)
    if option.multiple:
        schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
    default = to_toml(option, option.default)
    defaults = {} if default is None else {"default": default}
    return {**schema, **defaults, "description": option.help or ""}


def _type_of(option: click.Option) -> dict[str, Any]:
    kind = option.type
    if option.is_flag:
        return {"type": "boolean"}
    if isinstance(kind, click.Choice):
        return {"type": "string", "enum": list(kind.choices)}
    if isinstance(kind, click.IntRange | click.FloatRange):
        limits = {
            "exclusiveMinimum" if kind.min_open else "minimum": kind.min,
            "exclusiveMaximum" if kind.max_open else "maximum": kind.max,
        }
        name = "integer" if isinstance(kind, click.IntRange) else "number"
        return {"type": name, **{k: v for k, v in limits.items() if v is not None}}
    if isinstance(kind, click.types.IntParamType):
        return {"type": "integer"}
    if isinstance(kind, click.types.FloatParamType):
        return {"type": "number"}
    if is_comma_list(option):
        return {"type": ["string", "number", "array"], "items": {"type": ["string", "number"]}}
    if key_of(option) in NUMBER_OR_WORD:
        return {"type": ["string", "number"]}
    return {"type": "string"}


def from_toml(option: click.Option, value: object, folder: Path) -> Any:
    """A value of TOML as click's types take it.

    Args:
        option: the option that it is for.
        value: what the TOML parser found.
        folder: what paths are relative to.

    Raises:
        ValueError: it is of another type than the option; says what was found and expected.
    """
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return [_scalar(option, one, folder) for one in values]
    if isinstance(value, list) and is_comma_list(option):
        return ",".join(str(_scalar(option, one, folder)) for one in value)
    return _scalar(option, value, folder)


def _scalar(option: click.Option, value: object, folder: Path) -> Any:
    types = _type_of(option)["type"]
    allowed = {types} if isinstance(types, str) else set(types)
    if "number" in allowed:
        allowed.add("integer")
    if _JSON_TYPES.get(type(value), "") not in allowed - {"array"}:
        raise ValueError(f"found {in_words(value)}, expected {_expected(option)}")
    if isinstance(value, str):
        return _located(option, value, folder)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"found a number beyond 64 bits, expected {_expected(option)}")
    return str(value) if "string" in allowed else value


def _expected(option: click.Option) -> str:
    if option.is_flag:
        return "true or false"
    if is_comma_list(option):
        return "text or numbers, or an array of them"
    words = expected(option) or "text"
    return f"{words} in quotes" if words in ("text", "a path") else words


def _located(option: click.Option, text: str, folder: Path) -> str:
    """Text of which a path is made absolute."""
    try:
        place = folder / Path(text).expanduser()
    except RuntimeError as error:
        user = text.partition("/")[0]
        raise ValueError(f"found {in_words(text)}, and no home directory of {user}") from error
    if isinstance(option.type, click.Path):
        return str(place) if text else text
    if key_of(option) in NAME_OR_PATH and text and (os.sep in text or os.path.exists(place)):
        return str(place)
    return text


def to_toml(option: click.Option, value: object) -> Any:
    """An option's value as TOML has it; None where it has none."""
    if option.multiple:
        return [str(one) for one in value] if isinstance(value, list | tuple) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, bool | int | float | str) else None
