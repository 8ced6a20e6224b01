"""Compilers and emulators, each tried on a line of C where it compiles."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from primesvt_deploy.cli.health.finding import BROKEN, MISSING, OK, Finding, apt
from primesvt_deploy.cli.health.probe import Probe
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox, default_directory
from primesvt_deploy.devices.emulated_arm.sandbox_parts import find_qemu
from primesvt_deploy.edge.bench.c_compiler import version_of
from primesvt_deploy.errors import EmulationError

__all__ = ["check_compilers", "check_emulators"]

_COMPILERS = "Compilers"
_EMULATION = "ARM emulation: verify --arm"
_TRIAL = "#include <math.h>\n#include <stdint.h>\n#include <stdio.h>\nint main(void) {return 0;}\n"
_MB = 1_000_000


@dataclass(frozen=True)
class _Compiler:
    """A C compiler that some command runs."""

    name: str
    needed_for: str
    packages: str


_NATIVE = _Compiler("cc", "the native runtime, which it compiles", "gcc libc6-dev")
_CROSS = (
    _Compiler(
        "aarch64-linux-gnu-gcc",
        "the native runtime in verify --arm, and in bench --cc for a board",
        "gcc-aarch64-linux-gnu",
    ),
    _Compiler(
        "arm-none-eabi-gcc",
        "firmware of a bundle of build --mcu",
        "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
)
_NATIVE_NAMES = ("cc", "gcc", "clang")


def check_compilers() -> Iterator[Finding]:
    """This machine's C compiler, those for ARM, and make."""
    named = shlex.split(os.environ.get("CC", ""))
    commands = [named] if named else [[name] for name in _NATIVE_NAMES]
    present = [command for command in commands if shutil.which(command[0])]
    tried = [(_NATIVE, present[0] if present else None)]
    tried += [(each, [each.name] if shutil.which(each.name) else None) for each in _CROSS]
    # All at once: each of them takes a while to start.
    trials = [
        (each, command, command and Probe(_trial(command), stdin=_TRIAL, seconds=10.0))
        for each, command in tried
    ]
    for each, command, probe in trials:
        if not command or not probe:
            state, found = MISSING, f"CC names {named[0]}" if named and each is _NATIVE else ""
        else:
            failure = probe.failure()
            state = OK if failure is None else BROKEN
            found = (version_of(command) or "") if failure is None else failure
        mend = "" if state == OK else _mend(each.packages)
        yield Finding(_COMPILERS, each.name, state, found, each.needed_for, mend)
    yield _program(_COMPILERS, "make", "the native runtime in verify --arm, firmware", "make")


def _mend(packages: str) -> str:
    """How to get programs; without a PATH, a compiler does not find its own parts either."""
    return apt(packages) if os.environ.get("PATH") else "export PATH=/usr/local/bin:/usr/bin:/bin"


def _trial(command: list[str]) -> list[str]:
    return [*command, "-x", "c", "-fsyntax-only", "-"]


def _program(area: str, name: str, needed_for: str, packages: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(area, name, MISSING, "", needed_for, _mend(packages))
    return Finding(area, name, OK, path, needed_for)


def check_emulators() -> Iterator[Finding]:
    """The machine that `verify --arm` runs on, and qemu."""
    directory = default_directory()
    yield _sandbox(Sandbox(directory))
    qemu = find_qemu(directory)
    needed_for = "verify --arm"
    if qemu is None:
        found, mend = "verify --arm fetches it", apt("qemu-user-static")
        yield Finding(_EMULATION, "qemu-aarch64", MISSING, found, needed_for, mend)
    else:
        yield Finding(_EMULATION, "qemu-aarch64", OK, str(qemu), needed_for)
    firmware = "trying firmware of build --mcu without a board"
    yield _program(_EMULATION, "qemu-system-arm", firmware, "qemu-system-arm")


def _sandbox(sandbox: Sandbox) -> Finding:
    about = (_EMULATION, "sandbox")
    command = "primesvt-deploy verify BUNDLE --arm cortex-a72"
    mend = command if shutil.which("apt-get") else "use Debian or Ubuntu, by whose apt it is set up"
    needed_for = "verify --arm of bundles for ONNX Runtime"
    if not sandbox.directory.is_dir():
        found = f"not in {sandbox.directory}; verify --arm sets it up (240 MB, by apt and pip)"
        return Finding(*about, MISSING, found, needed_for, mend)
    size = f"{sandbox.directory}, {_size(sandbox) / _MB:.0f} MB"
    if not sandbox.is_ready:
        return Finding(*about, MISSING, f"begun, not finished: {size}", needed_for, mend)
    try:
        parts = sandbox.parts
    except EmulationError as error:
        remove = f"rm -r {shlex.quote(str(sandbox.directory))}, and set it up again"
        return Finding(*about, BROKEN, str(error), needed_for, remove)
    counting = "" if not parts.uncounted else "; instructions are not counted"
    found = f"{parts.python}, onnxruntime {sandbox.onnxruntime}: {size}{counting}"
    return Finding(*about, OK, found, needed_for)


def _size(sandbox: Sandbox) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(sandbox.directory)
        for name in names
    )
