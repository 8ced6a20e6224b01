"""Peak resident memory of the native engine in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.errors import BundleError

__all__ = ["native_peak_bytes"]

_PEAK = re.compile(r"([\d.]+) MB")


def native_peak_bytes(path: str | os.PathLike[str]) -> int:
    """Peak resident memory of `classify`, the engine's example program, which runs one sample.

    Args:
        path: a `model.svit`.

    Returns:
        Bytes, of the program, its libraries and the whole model file.

    Raises:
        BundleError: the program cannot be compiled or run.
    """
    model = NativeModel(path)
    size = 1
    for side in model.sample_shape:
        size *= side
    with tempfile.TemporaryDirectory(prefix="svit-") as name:
        directory = Path(name)
        sample = directory / "sample.raw"
        sample.write_bytes(bytes(size if model.takes_pixels else 4 * size))
        _run(["make", "--silent", "-C", str(OWN_SOURCES), f"BUILD={directory}"])
        program = [str(directory / "classify"), "--time", "1", os.path.abspath(path), str(sample)]
        said = _run(program)
    found = _PEAK.search(said)
    if found is None:
        raise BundleError(f"found no memory in what classify printed: {said.strip()[:200]!r}")
    return round(float(found.group(1)) * 1e6)


def _run(command: list[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BundleError(
            f"found no {command[0]}, expected it to measure the native runtime's memory: "
            "apt install make gcc libc6-dev"
        ) from error
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no reason given"]
        raise BundleError(f"{Path(command[0]).name} failed: {lines[-1][:200]}")
    return ended.stdout
