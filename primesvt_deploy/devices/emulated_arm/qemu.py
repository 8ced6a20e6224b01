"""Run `guest.py` on an emulated CPU, and explain how it ended."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.emulated_arm.guest import REFUSED
from primesvt_deploy.devices.emulated_arm.instruction_count import counting_environment
from primesvt_deploy.devices.emulated_arm.programs import last_words
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["Guest", "check_exit"]

_SIGNALS = {4: "an illegal instruction", 7: "a bus error", 11: "a segmentation fault"}
_QEMU_SAYS = "uncaught target signal {}"


class Guest:
    """The guest program on one CPU of a sandbox.

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
            EmulationError: it takes too long, or the emulator does not work.
        """
        command, environment = self._sandbox.command(self._cpu)
        answer: dict[str, Any] = json.loads(self._call(command, environment, arguments))
        return answer

    def count(self, arguments: Sequence[str]) -> int:
        """Run the guest program; instructions between its two marks. Raises as `run`."""
        file = self._folder / "instructions"
        file.unlink(missing_ok=True)
        command, environment = self._sandbox.command(self._cpu, counting=True)
        self._call(command, counting_environment(environment, file), arguments)
        try:
            first, second = map(int, file.read_text().split())
        except (OSError, ValueError):
            raise EmulationError("the plugin of this qemu gave no counts") from None
        return second - first

    def _call(
        self, command: Sequence[str], environment: dict[str, str], arguments: Sequence[str]
    ) -> str:
        """Run a command line; the last line of its output."""
        paths = f"{environment['PYTHONPATH']}:{self._code}"
        program = str(self._code / "primesvt_deploy/devices/emulated_arm/guest.py")
        try:
            done = subprocess.run(
                [*command, program, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                env={**environment, "PYTHONPATH": paths, "LC_ALL": "C.UTF-8"},
                cwd=self._folder,
                timeout=self._timeout_s,
            )
        except subprocess.TimeoutExpired:
            minutes = self._timeout_s / 60
            raise EmulationError(
                f"{self._cpu}: the emulator did not end within {minutes:g} minutes: the model is "
                "too large to emulate, or qemu hangs"
            ) from None
        except OSError as error:
            raise EmulationError(f"{self._cpu}: qemu does not start: {error}") from error
        check_exit(done, cpu=self._cpu, onnxruntime=self._sandbox.onnxruntime)
        return (done.stdout.splitlines() or [""])[-1]


def check_exit(done: subprocess.CompletedProcess[str], *, cpu: str, onnxruntime: str) -> None:
    """Raise an error of one line where a guest program failed.

    Args:
        done: the ended emulator, output captured as text.
        cpu: the emulated CPU.
        onnxruntime: the version there.

    Raises:
        VerificationError: a signal ended it, or onnxruntime refused the model.
        EmulationError: it ended with another status than 0.
    """
    for number, name in _SIGNALS.items():
        # qemu ends by the guest's signal; under a shell or a container's init that is 128 more.
        if done.returncode in (-number, 128 + number) or _QEMU_SAYS.format(number) in done.stderr:
            raise VerificationError(
                f"{cpu}: onnxruntime {onnxruntime} dies of {name} there: use another version of it"
            )
    if done.returncode == REFUSED:
        raise VerificationError(f"{cpu}: {last_words(done.stderr)}")
    if done.returncode:
        reason = last_words(done.stderr)
        raise EmulationError(f"{cpu}: the emulated Python ended with {done.returncode}: {reason}")


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
