"""Result files of benchmarks: their schema, reading and writing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.errors import MeasurementError, OutputError
from primesvt_deploy.edge.runtime.runtimes import ONNX, RUNTIMES
from primesvt_deploy.edge.whole_file import write_whole

__all__ = ["SCHEMA", "check_target", "key_of", "read_results", "write_results"]

SCHEMA = "primesvt-bench/1"


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result file and check its schema and values.

    Raises:
        MeasurementError: there is no such file, it is something else, or it holds a value that
            no measurement gives.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MeasurementError(f"there is no result file at {path}: check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise MeasurementError(
            f"{path} is not a complete JSON file: expected one that `bench --output` wrote"
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if schema != SCHEMA:
        raise MeasurementError(
            f"{path} has schema {schema!r}, expected {SCHEMA!r}: measure again with this version"
        )
    wrong = next(_wrong(content), None)
    if wrong:
        raise MeasurementError(f"{path} is damaged: {wrong}; measure again")
    found: dict[str, Any] = content
    return found


def _wrong(content: dict[str, Any]) -> Iterator[str]:
    """Values needed for comparisons that no measurement gives."""
    machine, bundles, variants = (content.get(k) for k in ("machine", "bundles", "variants"))
    if not isinstance(machine, dict) or not _are(machine.get("features", []), str):
        yield "machine is no fingerprint"
    if not _are(bundles, dict) or not bundles:
        yield "there is no list of bundles"
    if not _are(variants, dict) or not variants:
        yield "there is no list of variants"
        return
    for number, variant in enumerate(variants):
        where = f"variants[{number}]"
        runtime = variant.get("runtime", ONNX)  # results before there was another have none
        if runtime not in RUNTIMES:
            yield f"{where}.runtime is {runtime!r:.40}"
        for key, kind in (("name", str), ("bundle", str), ("batch", int), ("threads", int),
                          ("profile", str if runtime == ONNX else type(None))):  # fmt: skip
            if type(variant.get(key)) is not kind:
                yield f"{where}.{key} is {variant.get(key)!r:.40}"
        rounds = variant.get("rounds_ms")
        if not _are(rounds, list) or not rounds or not all(map(_are_times, rounds)):
            yield f"{where}.rounds_ms are not all times above 0"
        latency = variant.get("latency_ms")
        if not isinstance(latency, dict) or not _are_times([latency.get("median"),
                                                            latency.get("p95")]):  # fmt: skip
            yield f"{where}.latency_ms has no median and p95"
        peak = _dug(variant, "memory", "steady", "VmHWM")
        if peak is not None and type(peak) is not int:
            yield f"{where}.memory.steady.VmHWM is {peak!r:.40}"


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _are_times(values: list[Any]) -> bool:
    return bool(values) and all(
        type(value) in (int, float) and 0.0 < value < math.inf for value in values
    )


def _dug(content: object, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that a result cannot be written to, before anything is measured.

    Raises:
        OutputError: no file can be written there, or one that is no result would be lost.
    """
    target = Path(os.path.realpath(path))
    if not os.fspath(path) or str(path) == "." or target.is_dir():
        raise OutputError(f"--output is {os.fspath(path)!r}: expected a file to write")
    if not target.parent.is_dir():
        raise OutputError(f"--output: there is no directory {target.parent}: make it")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise OutputError(f"--output: {target} cannot be written: pass another file")
    if target.is_file() and target.stat().st_size:
        try:
            json.loads(target.read_text(encoding="utf-8"))["schema"].index("primesvt-bench/")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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


def key_of(variant: Mapping[str, Any]) -> tuple[str, str | None, int, int]:
    """Runtime, profile, batch and threads, which comparable entries of one label agree in."""
    runtime = variant.get("runtime", ONNX)
    return runtime, variant["profile"], variant["batch"], variant["threads"]
