"""Measure bundles on a host: connect, check the machine, copy, run, fetch, clean up."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from primesvt_deploy.devices.ssh import environment
from primesvt_deploy.devices.ssh.connection import LOST, Connection, connect
from primesvt_deploy.devices.ssh.host_directory import (
    HostDirectory,
    check_python,
    make_host_directory,
)
from primesvt_deploy.devices.ssh.native_files import NativeFiles, cross_compiled
from primesvt_deploy.devices.ssh.reconnect import ReconnectingConnection
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.devices.ssh.uploads import (
    Upload,
    bundle_uploads,
    runner_uploads,
    total_bytes,
)
from primesvt_deploy.edge.bench.machine_schema import check_machine
from primesvt_deploy.edge.bench.preflight import check, packages_of
from primesvt_deploy.edge.runtime.checked_json import fields, parse_json
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.native_library import READY_LIBRARY
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX
from primesvt_deploy.errors import RemoteError, type_and_message

__all__ = ["RemoteRequest", "measure_on_host"]

_MACHINE = "primesvt_deploy.edge.bench.machine"
_MAKE_ENVIRONMENT = "environment.py"
_ENV = "/usr/bin/env"
_ENVIRONMENT = "~/.cache/primesvt-deploy/venv"
_ILLEGAL_INSTRUCTION = 128 + signal.SIGILL
_TABLE = fields({})
_LONGEST = 1000
"""Characters that are told of a line from the host."""
_REPORTS = 4
"""Parts of a large upload that are reported."""
_LARGE_UPLOAD = 4_000_000
"""Bytes from which the parts of an upload are reported."""


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """A measurement to run on a host; the fields are `run_on_host`'s arguments."""

    bundles: tuple[Path, ...]
    settings: Mapping[str, Any]
    requires: Mapping[str, str]
    runtimes: tuple[str, ...]
    need_bytes: int
    job: str

    @property
    def is_native(self) -> bool:
        """Whether the native runtime is measured."""
        return NATIVE in self.runtimes

    @property
    def targets(self) -> list[str]:
        """Paths of the bundles in the directory on the host."""
        return [
            f"bundles/{number}-{re.sub(r'[^A-Za-z0-9._-]', '_', bundle.resolve().name)}"
            for number, bundle in enumerate(self.bundles)
        ]

    def uploads(self) -> list[Upload]:
        """The bundles' files."""
        return [
            upload
            for bundle, target in zip(self.bundles, self.targets, strict=True)
            for upload in bundle_uploads(bundle, target)
        ]


async def measure_on_host(
    host: HostSettings, request: RemoteRequest, *, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run a request on a host and clean up; see `run_on_host`.

    What the host says is told on one line, without what would control a terminal.
    """
    with ExitStack() as stack:
        native: NativeFiles | None = None
        if host.compiler is not None:
            native = stack.enter_context(cross_compiled(host.compiler, tell=tell))
        try:
            return await _measured(host, request, native, lambda line: tell(_shown(line)))
        except RemoteError as error:
            raise RemoteError(_shown(str(error))) from error
        except asyncssh.Error as error:
            raise RemoteError(
                f"{host.destination}: that host does not answer as sshd does: "
                f"{_shown(type_and_message(error))}; run it again"
            ) from error


def _shown(said: str) -> str:
    return on_one_line(said[:_LONGEST])


async def _measured(
    host: HostSettings,
    request: RemoteRequest,
    native: NativeFiles | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    uploads = [*request.uploads(), *(native.uploads if native else [])]
    connection = await connect(host)
    tell(f"connected to {connection.route.login}")
    try:
        await check_python(connection, host)
        directory = await make_host_directory(connection, host)
    except LOST as error:
        raise RemoteError(f"{host.destination}: the connection was lost ({error})") from error
    except BaseException:
        await connection.close()
        raise
    link = ReconnectingConnection(host, connection, directory, tell)
    removed = True
    try:
        directory.refuse_if_small(connection, uploads)
        await _copy_runner(connection, directory, host, request)
        run = _Measurement(host, directory, link, tell)
        python = await run.make_environment(request) if host.bootstrap else host.python
        preflight = await run.check_machine(python, request)
        await run.copy(uploads)
        result = await run.run_job(python, request, native)
    finally:
        removed = await link.close()
        if not removed:
            tell(f"what is left on {host.destination} is removed within {host.patience_s:g} s")
    compiled = {"cross_compiler": native.compiler} if native else {}
    return {**result, "preflight": preflight, **compiled}


async def _copy_runner(
    connection: Connection, directory: HostDirectory, host: HostSettings, request: RemoteRequest
) -> None:
    # The follower that makes a connection come back is among these files.
    runner = [
        *runner_uploads(native=request.is_native),
        Upload(Path(environment.__file__), _MAKE_ENVIRONMENT),
    ]
    try:
        await directory.copy(connection, runner)
    except LOST as error:
        raise RemoteError(f"{host.destination}: the connection was lost ({error})") from error


@dataclass(frozen=True)
class _Measurement:
    """The steps that a lost connection does not end, once the measuring code is on the host.

    Args:
        host: the host.
        directory: the directory there.
        link: the connection, which comes back when it is lost.
        tell: receives a line for the user.
    """

    host: HostSettings
    directory: HostDirectory
    link: ReconnectingConnection
    tell: Callable[[str], None]

    async def make_environment(self, request: RemoteRequest) -> str:
        """Make a virtual environment on the host unless there is one; its interpreter."""
        python, packages = self.host.python, packages_of(request.runtimes)
        code, error = await self.link.run([python, _MAKE_ENVIRONMENT, _ENVIRONMENT, *packages])
        if code:
            raise self._error(f"--bootstrap: {error.removeprefix('error: ') or f'status {code}'}")
        expand = "import os, sys; print(os.path.expanduser(sys.argv[1]))"
        command = self.directory.command(python, "-c", expand, f"{_ENVIRONMENT}/bin/python")
        result = await self.link.persist(lambda connection: connection.call(command))
        python = (result.out.splitlines() or [""])[-1]
        if result.code or not python.startswith("/"):
            raise self._error(f"--bootstrap: no environment there: {result.error or python!r}")
        self.tell(f"using {python}")
        return python

    async def check_machine(self, python: str, request: RemoteRequest) -> dict[str, Any]:
        """Machine and notes on it; refused where nothing can be measured on it."""
        command = self.directory.command(python, "-m", _MACHINE)
        result = await self.link.persist(lambda connection: connection.call(command))
        try:
            machine: dict[str, Any] = parse_json(result.out)
            check_machine(machine)
        except ValueError as error:
            raise self._error(
                f"{python} does not tell what machine it is: "
                f"{result.error or error}; try another by --remote-python"
            ) from error
        found = check(
            machine,
            request.requires,
            need_bytes=request.need_bytes,
            runtimes=request.runtimes,
            compiled=self.host.compiler is not None,
        )
        if found.refusals:
            raise self._error("; ".join(found.refusals))
        for note in found.notes:
            self.tell(f"note: {note}")
        if ONNX in request.runtimes:
            await self._try_import(python, machine["fingerprint"].get("onnxruntime"))
        return {"machine": machine, "notes": list(found.notes)}

    async def copy(self, uploads: list[Upload]) -> None:
        """Copy files, and report how far it is where they are large."""
        total, reported = total_bytes(uploads), 0
        self.tell(f"copying {total / 1e6:.1f} MB")

        def step(sent: int) -> None:
            nonlocal reported
            part = _REPORTS * sent // max(total, 1)
            if reported < part < _REPORTS and total > _LARGE_UPLOAD:
                self.tell(f"copied {sent / 1e6:.1f} of {total / 1e6:.1f} MB")
            reported = max(reported, part)

        await self.link.persist(
            lambda connection: self.directory.copy(connection, uploads, step=step)
        )

    async def run_job(
        self, python: str, request: RemoteRequest, native: NativeFiles | None
    ) -> dict[str, Any]:
        """Run the job and fetch its result."""
        content = {"bundles": request.targets, "settings": dict(request.settings)}
        await self.link.persist(
            lambda connection: self.directory.write(connection, "REQUEST.json", content)
        )
        job = [python, "-m", request.job, "REQUEST.json", "RESULT.json"]
        code, error = await self.link.run([_ENV, *self._variables(native), *job])
        if code == -signal.SIGKILL:
            raise self._error(
                "the job was killed (signal 9): out of memory, most likely; measure a smaller "
                "bundle, or add swap"
            )
        if code < 0:
            raise self._error(f"the job was ended by {_signal(-code)}; {error}")
        if code and native and READY_LIBRARY in error:
            found = error.removeprefix("error: ").partition(": compile it from")[0]
            raise self._error(f"{found}: pass --cc a compiler for that machine, or leave it out")
        if code:
            raise self._error(error.removeprefix("error: ") or f"the job ended with {code}")
        text = await self.link.read("RESULT.json")
        if text is None:
            raise self._error("the job wrote no result; run it again")
        try:
            result: dict[str, Any] = parse_json(text)
            _TABLE(result, "")
        except ValueError as wrong:
            raise self._error(f"its result is damaged: {wrong}; measure again") from wrong
        return result

    def _variables(self, native: NativeFiles | None) -> list[str]:
        """Environment of the job, in which all that it writes is in the directory."""
        here = self.directory.path
        variables = {"TMPDIR": here, "XDG_CACHE_HOME": f"{here}/cache"}
        for name, target in (native.variables if native else {}).items():
            variables[name] = f"{here}/{target}"
        return [f"{name}={value}" for name, value in variables.items()]

    async def _try_import(self, python: str, version: str | None) -> None:
        """Refuse an onnxruntime that is installed but does not run there."""
        command = self.directory.command(python, "-c", "import onnxruntime, numpy")
        result = await self.link.persist(lambda connection: connection.call(command))
        if result.code == _ILLEGAL_INSTRUCTION:
            raise self._error(
                f"onnxruntime {version} does not run on that processor (illegal instruction): "
                "install another version there, or pass --bootstrap"
            )
        if result.code:
            raise self._error(
                f"onnxruntime {version} cannot be imported by {python}: "
                f"{result.error or f'status {result.code}'}; install it anew, or pass --bootstrap"
            )

    def _error(self, reason: str) -> RemoteError:
        return RemoteError(f"{self.host.destination}: {reason}")


def _signal(number: int) -> str:
    """Name of a signal; those that have none here by their number."""
    return next((one.name for one in signal.Signals if one == number), f"signal {number}")
