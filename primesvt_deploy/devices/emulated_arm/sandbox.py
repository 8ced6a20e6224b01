"""A folder with an aarch64 Python, onnxruntime and numpy, run by qemu without root or a board.

It is set up from the machine's apt sources and pip's configured index. Each part is built under a
temporary name and renamed when it is complete: an interrupted set-up goes on where it was.

Why there is a `proc/cpuinfo`: onnxruntime reads the CPU's part and features there, and its import
crashes on the x86 host's. `qemu-aarch64 -L ROOT` opens ROOT/PATH instead of PATH where that exists,
so each CPU has a root of its own: links to the shared one and its `proc/cpuinfo`. (qemu from 8.2 on
makes up an ARM `/proc/cpuinfo` itself, and that comes first.) A script sees the machine's files at
their paths, except those that ROOT has too; it cannot start other programs of the sandbox.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.cpus import CPUS, cpuinfo
from primesvt_deploy.devices.emulated_arm.instruction_count import (
    make_counting_qemu,
    plugin_command,
)
from primesvt_deploy.devices.emulated_arm.programs import call
from primesvt_deploy.devices.emulated_arm.sandbox_parts import (
    fetch_debian,
    fetch_qemu,
    fetch_wheels,
    find_qemu,
)
from primesvt_deploy.edge.runtime.checked_json import fields, read_json, text
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["Parts", "Sandbox", "default_directory"]

_MARKER = "sandbox.json"
_WHEELS = "wheels-"
_COUNTER = "counter"
_HOST_ONLY = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONEXECUTABLE")


@dataclass(frozen=True)
class Parts:
    """The parts that a finished sandbox runs, as its `sandbox.json` lists them.

    Args:
        python: name of its interpreter.
        wheels: name of the folder with onnxruntime and numpy.
        uncounted: why instructions cannot be counted; empty: they can.
    """

    python: str
    wheels: str
    uncounted: str = "the sandbox is of an older version: set it up again"


_PARTS = fields(
    {"python": text(r"python3\.[0-9]+"), "wheels": text(rf"{_WHEELS}[^/]+")},
    {"uncounted": text(least=0, most=20_000)},
)
_FIELDS = tuple(field.name for field in dataclasses.fields(Parts))


class Sandbox:
    """A sandbox in a folder, which need not be there yet.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    @property
    def is_ready(self) -> bool:
        """Whether it is set up, with a qemu that still exists."""
        return (self.directory / _MARKER).is_file() and find_qemu(self.directory) is not None

    @property
    def parts(self) -> Parts:
        """The parts that it runs.

        Raises:
            EmulationError: it is not set up, or its record is damaged.
        """
        marker = self.directory / _MARKER
        try:
            content = read_json(marker)
            _PARTS(content, "")
        except (FileNotFoundError, NotADirectoryError):
            raise EmulationError(f"{self.directory} is no finished sandbox: set it up") from None
        except (OSError, ValueError):
            raise EmulationError(f"{marker} is damaged: remove it and set up again") from None
        return Parts(**{field: content[field] for field in _FIELDS if field in content})

    @property
    def onnxruntime(self) -> str:
        """Version of its onnxruntime; raises as `parts`."""
        return self.parts.wheels.removeprefix(_WHEELS)

    def set_up(self, *, onnxruntime: str | None = None, progress: Progress = SILENT) -> None:
        """Make the parts that are missing; some 240 MB in all.

        Args:
            onnxruntime: its version; None: that of this interpreter. Several versions can be set
                up; the last one is run.
            progress: gets a stage for each part that is fetched, and its bytes.

        Raises:
            EmulationError: a part cannot be fetched, or Python does not run.
        """
        version = onnxruntime or _installed()
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory):
            self._set_up(version, progress)

    def command(self, cpu: str, *, counting: bool = False) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of its Python on a CPU.

        Args:
            cpu: name of a CPU in `CPUS`.
            counting: use the qemu that counts instructions; see `counting_environment`.

        Raises:
            EmulationError: it is not set up, or cannot count.
        """
        parts = self.parts
        if counting and parts.uncounted:
            raise EmulationError(parts.uncounted)
        return self._command(cpu, parts, counting=counting)

    def emulator(self, *, counting: bool = False) -> list[str]:
        """Command line of its qemu alone, for programs that are linked statically.

        Args:
            counting: use the qemu that counts instructions; see `counting_environment`.

        Raises:
            EmulationError: it is not there.
        """
        if counting:
            if not (self.directory / _COUNTER).exists():
                ready = (self.directory / _MARKER).is_file()
                reason = self.parts.uncounted if ready else ""
                raise EmulationError(reason or "no qemu that counts could be fetched: try again")
            return plugin_command(self.directory / _COUNTER)
        qemu = find_qemu(self.directory)
        if qemu is None:
            raise EmulationError(f"{self.directory}: the qemu on PATH is gone: set it up again")
        return [str(qemu)]

    def set_up_emulator(self, *, progress: Progress = SILENT) -> None:
        """Make the part that `emulator` needs, unless it is there; the rest is for Python.

        Args:
            progress: gets a stage for each part that is fetched, and its bytes.

        Raises:
            EmulationError: no qemu can be fetched.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory):
            self._fetch_qemu(progress)
            self._make_counter(progress)

    def _command(
        self, cpu: str, parts: Parts, *, counting: bool = False
    ) -> tuple[list[str], dict[str, str]]:
        emulator = self.emulator(counting=counting)
        root = self.directory / cpu
        environment = {name: text for name, text in os.environ.items() if name not in _HOST_ONLY}
        paths = [str(self.directory / parts.wheels), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONHOME"] = str(root / "usr")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment["PYTHONNOUSERSITE"] = "1"
        python = str(root / "usr/bin" / parts.python)
        return [*emulator, "-cpu", cpu, "-L", str(root), python], environment

    def _set_up(self, version: str, progress: Progress) -> None:
        self._fetch_qemu(progress)
        root = self.directory / "root"
        if not root.exists():
            with _building(root) as result:
                fetch_debian(result, progress)
        python = max(root.glob("usr/bin/python3.*"), key=lambda path: int(path.suffix[1:])).name
        wheels = self.directory / f"{_WHEELS}{version}"
        if not wheels.exists():
            progress.stage(f"fetching aarch64 wheels of onnxruntime {version} for {python}", 1)
            with _building(wheels) as result:
                fetch_wheels(result, version, python.removeprefix("python"), progress)
            progress.step()
        for cpu in CPUS:
            if not (self.directory / cpu).exists():
                with _building(self.directory / cpu) as result:
                    _write_view(result, root, cpu)
        parts = Parts(python, wheels.name, self._make_counter(progress))
        if not self.is_ready or self.parts != parts:
            self._check(parts, progress)
            write_whole(self.directory / _MARKER, json.dumps(asdict(parts)) + "\n")
        progress.message(f"{self.directory} is ready: {python}, onnxruntime {version}")

    def _fetch_qemu(self, progress: Progress) -> None:
        if find_qemu(self.directory) is None:
            with _building(self.directory / "qemu") as result:
                fetch_qemu(result, progress)

    def _make_counter(self, progress: Progress) -> str:
        """Make the qemu that counts instructions; one line on why there is none, or empty."""
        if (self.directory / _COUNTER).exists():
            return ""
        try:
            with _building(self.directory / _COUNTER) as result:
                make_counting_qemu(result, progress)
        except EmulationError as error:  # everything else works without
            progress.message(f"instructions are not counted: {error}")
            return on_one_line(str(error))
        return ""

    def _check(self, parts: Parts, progress: Progress) -> None:
        """Import numpy and onnxruntime on each CPU."""
        progress.stage("trying the emulated CPUs", len(CPUS), "CPUs")
        with tempfile.TemporaryDirectory(prefix="primesvt-arm-") as folder:  # for a core dump
            for cpu in CPUS:
                command, environment = self._command(cpu, parts)
                base = [*command, "-c", "import ctypes, numpy"]
                call(base, environment=environment, folder=Path(folder))
                try:  # an onnxruntime that does not run on a CPU is what it is there to find
                    runtime = [*command, "-c", "import onnxruntime"]
                    call(runtime, environment=environment, folder=Path(folder))
                    progress.message(
                        f"{cpu}: onnxruntime {parts.wheels.removeprefix(_WHEELS)} imports"
                    )
                except EmulationError as error:
                    progress.message(f"{cpu}: {error}")
                progress.step()


def default_directory() -> Path:
    """Folder of the sandbox that is used where none is named, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "primesvt-deploy" / "arm-sandbox"


def _installed() -> str:
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        raise EmulationError("this interpreter has no onnxruntime: name a version") from None


def _write_view(view: Path, root: Path, cpu: str) -> None:
    """Fill `view` with links to `root` and with the CPU's `proc/cpuinfo`."""
    for path in sorted(root.iterdir()):
        (view / path.name).symlink_to(f"../{root.name}/{path.name}")
    (view / "proc").mkdir()
    (view / "proc/cpuinfo").write_text(cpuinfo(cpu))


@contextmanager
def _building(final: Path) -> Iterator[Path]:
    """An empty folder that becomes `final` if all goes well."""
    temporary = final.parent / f".part-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    temporary.replace(final)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a folder's lock: a second set-up waits for the first."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
