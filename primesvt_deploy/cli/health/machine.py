"""This machine: processor, memory, disk, and the directories that are written to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from primesvt_deploy.cli.health.finding import MISSING, OK, Finding
from primesvt_deploy.devices.emulated_arm.sandbox import default_directory
from primesvt_deploy.edge.bench.machine import fingerprint, state

__all__ = ["check_machine", "check_places"]

_MACHINE = "This machine"
_GB = 1e9
_FULL = 500_000_000
"""Free bytes below which a disk counts as full; an ARM sandbox has half of it."""
_DECIDING = (
    *("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("neon", "asimd", "asimddp", "i8mm", "sve"),
)
"""Instruction sets that the runtimes choose their kernels by."""


def check_machine() -> Iterator[Finding]:
    """Processor, the instruction sets that the runtimes choose by, and memory."""
    found, now = fingerprint(), state()
    physical, logical = found["physical_cores"], found["logical_cores"]
    cores = f"{physical or logical} cores" + (f", {logical} threads" if physical else "")
    yield Finding(_MACHINE, "processor", OK, f"{found['cpu'] or found['architecture']}, {cores}")
    vectors = [name for name in _DECIDING if name in found["features"]]
    fast = {"avx2", "neon", "asimd"} & set(vectors)
    yield Finding(
        *(_MACHINE, "vector instructions", OK if fast else MISSING),
        ", ".join(vectors) or "none of those that the kernels use",
        needed_for="speed: kernels in plain C run everywhere",
        mend="" if fast else "another processor",
    )
    total, available = found["memory_bytes"], now["memory_available_bytes"]
    if total is not None and available is not None:
        text = f"{total / _GB:.1f} GB, {available / _GB:.1f} GB available"
        yield Finding(_MACHINE, "memory", OK, text)


def check_places() -> Iterator[Finding]:
    """Directories that commands write to: whether they may, and whether there is room."""
    cache = default_directory().parent
    needed_for = "build, frontier, unless --output names another"
    try:
        yield _place("current directory", Path.cwd(), needed_for)
    except FileNotFoundError:
        name, found = "current directory", "it was removed"
        yield Finding(_MACHINE, name, MISSING, found, needed_for, "change to another, as with `cd`")
    yield _place("cache", cache, "the compiled native runtime and the ARM sandbox")
    yield _place("temporary directory", Path(tempfile.gettempdir()), "bench, verify, build")


def _place(name: str, directory: Path, needed_for: str) -> Finding:
    # One that is not there yet is made in the nearest that is.
    standing = next(d for d in (directory, *directory.parents) if d.exists())
    if not os.access(standing, os.W_OK | os.X_OK):
        mend = f"work in another, or: sudo chown $USER {standing}"
        found = f"{standing} cannot be written to"
        return Finding(_MACHINE, name, MISSING, found, needed_for, mend)
    free = shutil.disk_usage(standing).free
    found = f"{directory}, {free / _GB:.1f} GB free"
    if free < _FULL:
        return Finding(_MACHINE, name, MISSING, found, needed_for, "free some space on its disk")
    return Finding(_MACHINE, name, OK, found, needed_for)
