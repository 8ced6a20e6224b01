"""Run `guest.py` on an emulated CPU, and tell how it ended."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.emulated_arm.guest import REFUSED
from primesvt_deploy.devices.emulated_arm.instruction_count import with_count
from primesvt_deploy.devices.emulated_arm.programs import last_words
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["Guest", "judge_end"]

_SIGNALS = {4: "an illegal instruction", 7: "a bus error", 11: "a segmentation fault"}
_QEMU_SAYS = "uncaught target signal {}"


class Guest:
    """The guest program on one CPU of a sandbox.

    Args:
        sandbox: one that is set up.
        cpu: one of `CPUS`.
        folder: an existing one for its files; what a crash leaves comes there, too.
        timeout_s: how long one run may take, seconds.
    """

    def __init__(self, sandbox: Sandbox, cpu: str, folder: Path, *, timeout_s: float) -> None:
        self._sandbox, self._cpu, self._folder = sandbox, cpu, folder
        self._timeout_s = timeout_s
        self._code = folder / "code"
        _copy_code(self._code)

    def run(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What the guest program says.

        Args:
            arguments: of `guest.main`.

        Raises:
            VerificationError: the CPU lacks an instruction, it crashes, or onnxruntime refuses.
            EmulationError: it takes too long, or the emulator does not work.
        """
        command, environment = self._sandbox.command(self._cpu)
        said: dict[str, Any] = json.loads(self._call(command, environment, arguments))
        return said

    def count(self, arguments: Sequence[str]) -> int:
        """Instructions between the two marks that the guest program sets; raises as `run`."""
        file = self._folder / "instructions"
        file.unlink(missing_ok=True)
        command, environment = self._sandbox.command(self._cpu, counting=True)
        self._call(command, with_count(environment, file), arguments)
        try:
            first, second = map(int, file.read_text().split())
        except (OSError, ValueError):
            raise EmulationError("the plugin of this qemu gave no counts") from None
        return second - first

    def _call(
        self, command: Sequence[str], environment: dict[str, str], arguments: Sequence[str]
    ) -> str:
        """The last line of its output."""
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
        judge_end(done, cpu=self._cpu, onnxruntime=self._sandbox.onnxruntime)
        return (done.stdout.splitlines() or [""])[-1]


def judge_end(done: subprocess.CompletedProcess[str], *, cpu: str, onnxruntime: str) -> None:
    """Say in one line what a guest program died of, if it did.

    Args:
        done: the ended emulator, output captured as text.
        cpu: the emulated CPU.
        onnxruntime: the version there.

    Raises:
        VerificationError: a signal ended it, or onnxruntime refused the model.
        EmulationError: it ended otherwise than with 0.
    """
    for number, what in _SIGNALS.items():
        # qemu ends by the guest's signal; under a shell or a container's init that is 128 more.
        if done.returncode in (-number, 128 + number) or _QEMU_SAYS.format(number) in done.stderr:
            raise VerificationError(
                f"{cpu}: onnxruntime {onnxruntime} dies of {what} there: use another version of it"
            )
    if done.returncode == REFUSED:
        raise VerificationError(f"{cpu}: {last_words(done.stderr)}")
    if done.returncode:
        said = last_words(done.stderr)
        raise EmulationError(f"{cpu}: the emulated Python ended with {done.returncode}: {said}")


def _copy_code(target: Path) -> None:
    """The guest program and what it imports, as a package without the rest."""
    source = Path(__file__).parents[2]
    package = target / "primesvt_deploy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "edge/runtime", package / "edge/runtime", ignore=ignored)
    guest = Path("devices/emulated_arm/guest.py")
    (package / guest).parent.mkdir(parents=True)
    shutil.copy(source / guest, package / guest)
    for folder in (package, package / "edge", package / "devices", package / guest.parent):
        (folder / "__init__.py").touch()
