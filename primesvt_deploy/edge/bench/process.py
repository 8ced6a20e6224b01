"""Worker processes, as the process that starts them sees them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from primesvt_deploy.edge.bench import worker
from primesvt_deploy.edge.bench.configurations import Configuration
from primesvt_deploy.edge.bench.errors import MeasurementError
from primesvt_deploy.edge.runtime.checked_json import (
    Check,
    by_name,
    fields,
    list_of,
    null_or,
    number,
    parse_json,
    text,
    whole,
)
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX

__all__ = ["Worker", "module_environment"]

_MEMORY = "is there enough memory?"
_HINTS = {
    "SIGKILL": _MEMORY,
    "SIGILL": "this onnxruntime uses instructions that this CPU lacks: try another version",
    "": "try another onnxruntime version",
}
_HINTS_NATIVE = {
    "SIGKILL": _MEMORY,
    "SIGILL": "the native runtime was compiled for another CPU: compile it on this machine",
    "SIGBUS": "the model file was cut short while it was in use: copy it again",
    "": "please report it, with the model file",
}
"""What to do about the signal that ended a process; the last one is for any other signal."""

_RESIDENT = by_name(null_or(whole()))
_SECONDS = number(0, 1e9)
_LOADED = {
    "seconds": fields(dict.fromkeys(("import", "load", "first_run"), _SECONDS)),
    "memory": by_name(_RESIDENT),
    "batch": whole(1),
}
_LOADED_BY = {
    ONNX: fields(_LOADED),
    NATIVE: fields({**_LOADED, "kernels": text(), "arena_bytes": whole()}),
}
"""Checks of what loading took, by the runtime."""
_TIMED = fields({"ms": list_of(number(0, 1e9), least=1)})
_ENDED = fields({"resident": _RESIDENT, "cpu_seconds": _SECONDS})


class Worker:
    """A fresh process with one configuration loaded; a context manager that ends it.

    Args:
        configuration: model file and options that it loads and runs.
        samples: an `.npy` of samples to run; None: noise.

    Attributes:
        loading: cost of loading: `seconds` (`import`, `load`, `first_run`), `memory` by stage
            (bytes), `batch` (the file's own where it is fixed), `sample_shape`; of the native
            runtime also `kernels` and `arena_bytes`.

    Raises:
        MeasurementError: the model cannot be loaded or run there.
    """

    def __init__(self, configuration: Configuration, samples: Path | None = None) -> None:
        self.configuration = configuration
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115  (closed with the process)
            "w+", encoding="utf-8", errors="replace"
        )
        profile = configuration.profile
        options = json.dumps(None if profile is None else profile.to_dict())
        command = [sys.executable, "-m", worker.__name__, str(configuration.file), options]
        command += [str(configuration.threads), str(configuration.batch)]
        self._process = subprocess.Popen(
            [*command, *([] if samples is None else [str(samples)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            env=module_environment(),
        )
        try:
            self.loading = self._answer(_LOADED_BY[configuration.runtime])
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Worker:
        """Return the worker, which is loaded already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._end()

    def time(self, count: int) -> list[float]:
        """Wall times of `count` runs, ms."""
        times: list[float] = self._ask(f"time {count}", _TIMED)["ms"]
        return times

    def quit(self) -> dict[str, Any]:
        """End the process; `resident` memory at its end (bytes) and its `cpu_seconds` in all."""
        return self._ask("quit", _ENDED)

    def _ask(self, words: str, expected: Check) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its last output follows
            self._process.stdin.write(f"{words}\n")
            self._process.stdin.flush()
        return self._answer(expected)

    def _answer(self, expected: Check) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):  # it has ended, perhaps as it wrote
            raise MeasurementError(f"{self.configuration.name}: {self._last_words()}")
        try:
            answer: dict[str, Any] = parse_json(line)
            expected(answer, "")
        except ValueError as error:
            raise MeasurementError(
                f"{self.configuration.name}: its process printed {line[:60]!r}, expected figures: "
                f"{error}; does a library print something there?"
            ) from error
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hints = _HINTS_NATIVE if self.configuration.runtime == NATIVE else _HINTS
            hint = hints.get(name, hints[""])
            return f"the process was ended by {name}: {hint}"
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or [f"it ended with {code}"]
        return on_one_line(said[-1].removeprefix("error: "))

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that was never read
                    stream.close()


def module_environment() -> dict[str, str]:
    """Environment variables with which `python -m primesvt_deploy...` finds this very package."""
    home = str(Path(__file__).resolve().parents[3])
    search = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search}
