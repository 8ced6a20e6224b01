"""Peak memory of `classify`, the C program of the native runtime: the least that a device needs."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from primesvt_deploy.edge.bench.errors import BundleError
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES

__all__ = ["READY_PROGRAM", "build_program", "measure_programs", "program_peak_bytes"]

READY_PROGRAM = "PRIMESVT_NATIVE_PROGRAM"
"""Environment variable that names a `classify` which was compiled elsewhere."""

_PEAK = re.compile(r"([\d.]+) MB")
_FLOAT_BYTES = 4


def measure_programs(models: Iterable[Path]) -> dict[Path, int]:
    """Peak memory of the program, bytes, by model file; it is compiled unless one is there.

    Args:
        models: files `model.svit`.

    Raises:
        BundleError: the program cannot be compiled or run here.
    """
    ready = os.environ.get(READY_PROGRAM)
    with tempfile.TemporaryDirectory(prefix="svit-") as directory:
        program = Path(ready).absolute() if ready else build_program(Path(directory))
        return {path: program_peak_bytes(program, path) for path in models}


def build_program(directory: Path, *, variables: Mapping[str, str] | None = None) -> Path:
    """Compile `classify` with `make`, from the sources that belong to this package.

    Args:
        directory: where it is written.
        variables: of the Makefile, such as `CC`; None: as they are there.

    Raises:
        BundleError: there is no make or no C compiler, or it fails.
    """
    given = [f"{name}={value}" for name, value in (variables or {}).items()]
    _run(["make", "--silent", "-C", str(OWN_SOURCES), f"BUILD={directory}", *given])
    return directory / "classify"


def program_peak_bytes(program: Path, path: str | os.PathLike[str]) -> int:
    """Peak resident memory of `classify` as it runs one sample.

    Args:
        program: the program.
        path: a `model.svit`.

    Returns:
        Bytes, of the program, its libraries and the whole model file.

    Raises:
        BundleError: the model cannot be opened here, or the program fails.
    """
    model = NativeModel(path)
    size = math.prod(model.sample_shape)
    with tempfile.TemporaryDirectory(prefix="svit-") as name:
        sample = Path(name) / "sample.raw"
        sample.write_bytes(bytes(size if model.takes_pixels else _FLOAT_BYTES * size))
        said = _run([str(program), "--time", "1", os.path.abspath(path), str(sample)])
    found = _PEAK.search(said)
    if found is None:
        raise BundleError(f"found no memory in what classify printed: {said.strip()[:200]!r}")
    return round(float(found.group(1)) * 1e6)


def _run(command: list[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BundleError(
            f"{command[0]} cannot be run ({error.strerror}), expected it to measure the native "
            "runtime's memory: apt install make gcc libc6-dev"
        ) from error
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no reason given"]
        raise BundleError(f"{Path(command[0]).name} failed: {lines[-1][:200]}")
    return ended.stdout
