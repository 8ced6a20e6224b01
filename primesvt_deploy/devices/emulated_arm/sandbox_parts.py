"""Fetch the parts of a sandbox: qemu and Python from Debian, wheels from pip's index."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.debian_packages import opened_apt, unpack
from primesvt_deploy.devices.emulated_arm.downloads import watched
from primesvt_deploy.devices.emulated_arm.programs import call
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["fetch_debian", "fetch_qemu", "fetch_wheels", "find_qemu"]

_QEMU = "qemu-aarch64-static"
_NAMES = (_QEMU, "qemu-aarch64")
_LOADER = "lib/ld-linux-aarch64.so.1"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def find_qemu(directory: Path) -> Path | None:
    """Path of the qemu that was fetched to a sandbox, else of one on PATH, or None."""
    fetched = directory / "qemu" / _QEMU
    if fetched.exists():
        return fetched
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    return Path(found) if found else None


def fetch_qemu(result: Path, progress: Progress = SILENT) -> None:
    """Put `qemu-aarch64-static` of the machine's Debian in `result`.

    Args:
        result: an empty folder.
        progress: gets the stages of `unpack`.

    Raises:
        EmulationError: it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="primesvt-qemu-") as scratch:
        for package in ("qemu-user-static", "qemu-user"):  # Debian 13's first leads to the second
            unpack([package], Path(scratch), progress=progress)
            for name in _NAMES:
                program = Path(scratch) / "usr/bin" / name
                if program.is_file():
                    shutil.copy(program, result / _QEMU)
                    return
    raise EmulationError(f"neither qemu-user-static nor qemu-user has {_QEMU}")


def fetch_debian(result: Path, progress: Progress = SILENT) -> None:
    """Unpack the release's arm64 Python, and what it and the wheels need, to `result`.

    Args:
        result: an empty folder.
        progress: gets the stages of `unpack`.

    Raises:
        EmulationError: it cannot be fetched.
    """
    with opened_apt("arm64", progress) as apt:
        shown = apt.call("apt-cache", "show", "python3-minimal")
        found = re.search(r"\bpython3\.\d+(?=-minimal)", shown)
        if not found:
            raise EmulationError("Debian's python3-minimal names no python3.x-minimal")
        python = [f"{found[0]}-minimal", f"lib{found[0]}-stdlib"]
        apt.unpack([*python, "libstdc++6", "libgcc-s1", "zlib1g"], result, dependencies=True)
    loader = result / _LOADER
    if not loader.exists():  # where /usr is merged, no package holds /lib
        loader.parent.mkdir(exist_ok=True)
        loader.symlink_to(f"../usr/{_LOADER}")


def fetch_wheels(result: Path, onnxruntime: str, python: str, progress: Progress = SILENT) -> None:
    """Install aarch64 wheels to `result`.

    Args:
        result: an empty folder.
        onnxruntime: its version.
        python: the sandbox's, such as `3.11`.
        progress: gets the bytes that are downloaded; pip does not tell of how many.

    Raises:
        EmulationError: pip does not find them, or there is no pip.
    """
    tag = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-compile", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", tag, "--abi", f"cp{tag}"]
    command += [part for name in _PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    names = [f"onnxruntime=={onnxruntime}", "numpy", "flatbuffers", "packaging"]
    with tempfile.TemporaryDirectory(prefix="primesvt-pip-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        with watched(Path(folder), progress, pattern="pip-unpack-*"):
            call([*command, "--target", str(result), *names], environment=environment)
