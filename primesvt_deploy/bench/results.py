"""Result files of benchmarks: their schema, reading and writing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primesvt_deploy.errors import MeasurementError, OutputError

__all__ = ["SCHEMA", "key_of", "read_results", "write_results"]

SCHEMA = "primesvt-bench/1"
_KEYS = ("machine", "settings", "bundles", "variants", "comparisons", "notes")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A result file, whole and of a schema this version reads.

    Raises:
        MeasurementError: there is none, or it is something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MeasurementError(f"there is no result file at {path}: check the path") from error
    except (OSError, ValueError) as error:
        raise MeasurementError(
            f"{path} is no whole JSON file: expected one that `bench --output` wrote"
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if schema != SCHEMA:
        raise MeasurementError(
            f"{path} has schema {schema!r}, expected {SCHEMA!r}: measure again with this version"
        )
    missing = [key for key in _KEYS if key not in content]
    if missing or not content["variants"]:
        raise MeasurementError(f"{path} is incomplete ({', '.join(missing) or 'no variants'})")
    found: dict[str, Any] = content
    return found


def write_results(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a result file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f"{target.name}.partial")
    try:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def key_of(variant: Mapping[str, Any]) -> tuple[str, int, int]:
    """What must agree for variants of one label to be comparable: profile, batch, threads."""
    return variant["profile"], variant["batch"], variant["threads"]
