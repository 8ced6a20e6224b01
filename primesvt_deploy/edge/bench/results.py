"""Result files of benchmarks: reading and writing."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.errors import MeasurementError, OutputError
from primesvt_deploy.edge.bench.result_schema import SCHEMA, check_result
from primesvt_deploy.edge.runtime.checked_json import fields, read_json, text
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.whole_file import bundle_around, write_whole

__all__ = ["check_target", "keep_results", "read_results", "write_results"]

_OF_ANY_VERSION = fields({"schema": text(r"primesvt-bench/.*")})


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result file and check its schema and values.

    Raises:
        MeasurementError: there is no such file, it is something else, or it holds a value that
            no measurement gives.
    """
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise MeasurementError(f"there is no result file at {path}: check the path") from error
    except (OSError, ValueError) as error:
        raise MeasurementError(
            f"{path} is not a complete JSON file ({reason_of(error)}): expected one that "
            "`bench --output` wrote"
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if schema != SCHEMA:
        raise MeasurementError(
            f"{path} has schema {schema!r:.40}, expected {SCHEMA!r}: measure again with this "
            "version"
        )
    try:
        check_result(content)
    except ValueError as error:
        raise MeasurementError(f"{path} is damaged: {error}; measure again") from error
    found: dict[str, Any] = content
    return found


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that a result cannot be written to, before anything is measured.

    Raises:
        OutputError: no file can be written there, or one that is no result would be lost.
    """
    target = Path(os.path.realpath(path))
    if not os.fspath(path) or str(path) == "." or target.is_dir():
        raise OutputError(f"--output is {os.fspath(path)!r}: expected a file to write")
    if bundle := bundle_around(target):
        raise OutputError(
            f"--output is {path}, within the bundle {bundle}, whose files are listed in its "
            "manifest: pass a file elsewhere"
        )
    if not target.parent.is_dir():
        raise OutputError(f"--output: there is no directory {target.parent}: make it")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise OutputError(f"--output: {target} cannot be written: pass another file")
    if target.is_file() and target.stat().st_size:
        try:
            _OF_ANY_VERSION(read_json(target), "")
        except (OSError, ValueError) as error:
            raise OutputError(
                f"--output: {path} exists and is no result of bench: move it away, or pass another "
                "file"
            ) from error


def write_results(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a result file, whole or not at all; to a device or pipe, as it comes.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        target = os.path.realpath(path)
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def keep_results(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a result file, and where that fails, another: what was measured is not lost.

    Raises:
        OutputError: it cannot be written there; the message says where it is instead.
    """
    try:
        write_results(content, path)
    except OutputError as error:
        other = _elsewhere(content)
        found = f"the result is at {other}, move it from there" if other else "make room there"
        raise OutputError(f"{error}: {found}") from error


def _elsewhere(content: Mapping[str, Any]) -> str | None:
    """A file in the current or the temporary directory that holds a result; None: no room."""
    for directory in (".", tempfile.gettempdir()):
        if bundle_around(os.path.join(directory, "result.json")):
            continue
        with contextlib.suppress(OSError):
            handle, path = tempfile.mkstemp(".json", "primesvt-bench-", directory)
            os.close(handle)
            try:
                write_results(content, path)
            except OutputError:
                os.unlink(path)
            else:
                return path
    return None
