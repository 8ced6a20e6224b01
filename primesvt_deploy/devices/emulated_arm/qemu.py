"""Run guest programs on an emulated CPU, and explain how they ended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.emulated_arm.guest import REFUSED
from primesvt_deploy.devices.emulated_arm.instruction_count import counting_environment
from primesvt_deploy.devices.emulated_arm.programs import last_words
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.edge.runtime.checked_json import by_name, fields, parse_json, text
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["Guest", "NativeGuest", "check_exit"]

_SIGNALS = {4: "an illegal instruction", 7: "a bus error", 11: "a segmentation fault"}
_QEMU_SAYS = "uncaught target signal {}"
_ANSWER = fields({"onnxruntime": text()}, {"digests": by_name(text("[0-9a-f]{64}"))})


class Guest:
    """The program `guest.py` on one CPU of a sandbox.

    Args:
        sandbox: a sandbox that is set up.
        cpu: name of a CPU in `CPUS`.
        folder: an existing folder for its files; a core dump goes there, too.
        timeout_s: seconds that one run may take.
    """

    def __init__(self, sandbox: Sandbox, cpu: str, folder: Path, *, timeout_s: float) -> None:
        self._sandbox, self._cpu, self._folder = sandbox, cpu, folder
        self._timeout_s = timeout_s
        self._code = folder / "code"
        _copy_code(self._code)

    def run(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Run the guest program; its answer, the JSON of its last line.

        Args:
            arguments: command-line arguments of `guest.main`.

        Raises:
            VerificationError: the CPU lacks an instruction, it crashes, or onnxruntime refuses.
            EmulationError: it takes too long, answers something else, or the emulator does not
                work.
        """
        command, environment = self._sandbox.command(self._cpu)
        said = self._call(command, environment, arguments)
        try:
            answer: dict[str, Any] = parse_json(said)
            _ANSWER(answer, "")
        except ValueError as error:
            raise EmulationError(
                f"{self._cpu}: the emulated program printed {said[:60]!r}, expected its answer: "
                f"{error}"
            ) from error
        return answer

    def count(self, arguments: Sequence[str]) -> int:
        """Run the guest program; instructions between its two marks. Raises as `run`."""
        file = self._folder / "instructions"
        file.unlink(missing_ok=True)
        command, environment = self._sandbox.command(self._cpu, counting=True)
        self._call(command, counting_environment(environment, file), arguments)
        return _counted(file)

    def _call(
        self, command: Sequence[str], environment: dict[str, str], arguments: Sequence[str]
    ) -> str:
        """Run a command line; the last line of its output."""
        paths = f"{environment['PYTHONPATH']}:{self._code}"
        program = str(self._code / "primesvt_deploy/devices/emulated_arm/guest.py")
        done = _emulated(
            [*command, program, *arguments],
            {**environment, "PYTHONPATH": paths, "LC_ALL": "C.UTF-8"},
            folder=self._folder,
            cpu=self._cpu,
            timeout_s=self._timeout_s,
        )
        check_exit(
            done,
            cpu=self._cpu,
            runtime=f"onnxruntime {self._sandbox.onnxruntime}",
            remedy="use another version of it",
        )
        return (done.stdout.splitlines() or [""])[-1]


class NativeGuest:
    """A statically linked program of the native runtime on one CPU.

    Args:
        sandbox: a sandbox with an emulator; the rest of it is not needed.
        cpu: name of a CPU in `CPUS`.
        folder: an existing folder for its files; a core dump goes there, too.
        timeout_s: seconds that one run may take.
    """

    def __init__(self, sandbox: Sandbox, cpu: str, folder: Path, *, timeout_s: float) -> None:
        self.cpu = cpu
        self._sandbox, self._folder, self._timeout_s = sandbox, folder, timeout_s

    def run(self, command: Sequence[str]) -> None:
        """Run a program to its end.

        Args:
            command: the program and its arguments.

        Raises:
            VerificationError: the CPU lacks an instruction, or it crashes.
            EmulationError: it fails or takes too long, or the emulator does not work.
        """
        self._call(self._sandbox.emulator(), os.environ, command)

    def count(self, command: Sequence[str]) -> int:
        """Run a program; instructions between its two marks. Raises as `run`."""
        file = self._folder / "native-instructions"
        file.unlink(missing_ok=True)
        emulator = self._sandbox.emulator(counting=True)
        self._call(emulator, counting_environment(os.environ, file), command)
        return _counted(file)

    def _call(
        self, emulator: Sequence[str], environment: Mapping[str, str], command: Sequence[str]
    ) -> None:
        done = _emulated(
            [*emulator, "-cpu", self.cpu, *command],
            environment,
            folder=self._folder,
            cpu=self.cpu,
            timeout_s=self._timeout_s,
        )
        check_exit(
            done,
            cpu=self.cpu,
            runtime="the native runtime",
            remedy="report it, with the cross compiler's version",
        )


def check_exit(
    done: subprocess.CompletedProcess[str], *, cpu: str, runtime: str, remedy: str
) -> None:
    """Raise an error of one line where a guest program failed.

    Args:
        done: the ended emulator, output captured as text.
        cpu: the emulated CPU.
        runtime: name and version of the runtime there.
        remedy: what to do where it crashes.

    Raises:
        VerificationError: a signal ended it, or onnxruntime refused the model.
        EmulationError: it ended with another status than 0.
    """
    for number, name in _SIGNALS.items():
        # qemu ends by the guest's signal; under a shell or a container's init that is 128 more.
        if done.returncode in (-number, 128 + number) or _QEMU_SAYS.format(number) in done.stderr:
            raise VerificationError(f"{cpu}: {runtime} dies of {name} there: {remedy}")
    if done.returncode == REFUSED:
        raise VerificationError(f"{cpu}: {last_words(done.stderr)}")
    if done.returncode:
        reason = last_words(done.stderr)
        raise EmulationError(f"{cpu}: the emulated program ended with {done.returncode}: {reason}")


def _emulated(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    cpu: str,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run a command line of an emulator to its end; its output is captured as text."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            cwd=folder,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise EmulationError(
            f"{cpu}: the emulator did not end within {timeout_s / 60:g} minutes: the model is "
            "too large to emulate, or qemu hangs"
        ) from None
    except OSError as error:
        raise EmulationError(f"{cpu}: qemu does not start: {error}") from error


def _counted(file: Path) -> int:
    """Instructions between the two marks that the plugin wrote down."""
    try:
        first, second = map(int, file.read_text().split())
    except (OSError, ValueError):
        raise EmulationError("the plugin of this qemu gave no counts") from None
    return second - first


def _copy_code(target: Path) -> None:
    """Copy the guest program and the modules that it imports."""
    source = Path(__file__).parents[2]
    package = target / "primesvt_deploy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "edge/runtime", package / "edge/runtime", ignore=ignored)
    guest = Path("devices/emulated_arm/guest.py")
    (package / guest).parent.mkdir(parents=True)
    shutil.copy(source / guest, package / guest)
    for folder in (package, package / "edge", package / "devices", package / guest.parent):
        (folder / "__init__.py").touch()
