"""The steps of measuring on a host, in their order."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.ssh import environment
from primesvt_deploy.devices.ssh.connection import LOST, Connection, connect
from primesvt_deploy.devices.ssh.host_directory import (
    Place,
    Upload,
    bundle_uploads,
    find_python,
    make_place,
    runner_uploads,
)
from primesvt_deploy.devices.ssh.reconnect import Link
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.edge.bench.preflight import check
from primesvt_deploy.errors import RemoteError

__all__ = ["Task", "measure"]

_MACHINE = "primesvt_deploy.edge.bench.machine"
_MAKER = "environment.py"
_ENVIRONMENT = "~/.cache/primesvt-deploy/venv"
_PACKAGES = ("onnxruntime", "numpy")
_ILLEGAL = 128 + signal.SIGILL
_TOLD_STEPS = 4
"""An upload is told in so many steps."""
_WORTH_TELLING = 4_000_000
"""Bytes from which an upload is told in steps."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done on a host; see `session.run_on_host`."""

    bundles: tuple[Path, ...]
    settings: Mapping[str, Any]
    requires: Mapping[str, str]
    need_bytes: int
    job: str


async def measure(host: HostSettings, task: Task, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Connect, look, copy, run, fetch, clean up; see `session.run_on_host`."""
    names = [_there(number, bundle) for number, bundle in enumerate(task.bundles)]
    uploads = [
        upload
        for bundle, name in zip(task.bundles, names, strict=True)
        for upload in bundle_uploads(bundle, name)
    ]
    connection = await connect(host)
    tell(f"connected to {connection.route.login}")
    try:
        await find_python(connection, host)
        place = await make_place(connection, host)
    except LOST as error:
        raise RemoteError(f"{host.destination}: the connection was lost ({error})") from error
    except BaseException:
        await connection.close()
        raise
    link = Link(host, connection, place, tell)
    removed = True
    try:
        place.refuse_if_small(connection, uploads)
        await _copy_runner(connection, place, host)
        python = await _bootstrap(link, host, place, tell) if host.bootstrap else host.python
        preflight = await _preflight(link, place, python, task, host, tell)
        await _copy(link, place, uploads, tell)
        result = await _run_job(link, place, python, task, names, host)
    finally:
        removed = await link.close()
        if not removed:
            tell(f"what is left on {host.destination} is removed within {host.patience_s:g} s")
    return {**result, "preflight": preflight}


def _there(number: int, bundle: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", bundle.resolve().name)
    return f"bundles/{number}-{name}"


async def _copy_runner(connection: Connection, place: Place, host: HostSettings) -> None:
    # Before it is there nothing can follow, so nothing comes back either.
    runner = [*runner_uploads(), Upload(Path(environment.__file__), _MAKER)]
    try:
        await place.copy(connection, runner)
    except LOST as error:
        raise RemoteError(f"{host.destination}: the connection was lost ({error})") from error


async def _bootstrap(
    link: Link, host: HostSettings, place: Place, tell: Callable[[str], None]
) -> str:
    """The interpreter of the environment there, made where it is not."""
    code, error = await link.run([host.python, _MAKER, _ENVIRONMENT, *_PACKAGES])
    if code:
        reason = error.removeprefix("error: ") or f"status {code}"
        raise RemoteError(f"{host.destination}: --bootstrap: {reason}")
    expand = "import os, sys; print(os.path.expanduser(sys.argv[1]))"
    answer = await link.persist(
        lambda connection: connection.call(
            place.command(host.python, "-c", expand, f"{_ENVIRONMENT}/bin/python")
        )
    )
    python = answer.out.splitlines()[-1]
    tell(f"using {python}")
    return python


async def _preflight(
    link: Link,
    place: Place,
    python: str,
    task: Task,
    host: HostSettings,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """What machine it is; ends with one line where nothing can be measured on it."""
    answer = await link.persist(
        lambda connection: connection.call(place.command(python, "-m", _MACHINE))
    )
    try:
        machine: dict[str, Any] = json.loads(answer.out)
    except ValueError as error:
        raise RemoteError(
            f"{host.destination}: {python} does not tell what machine it is: "
            f"{answer.error or 'it printed no JSON'}; try another by --remote-python"
        ) from error
    found = check(machine, task.requires, need_bytes=task.need_bytes)
    if found.refusals:
        raise RemoteError(f"{host.destination}: {'; '.join(found.refusals)}")
    for note in found.notes:
        tell(f"note: {note}")
    await _try_import(link, place, python, machine, host)
    return {"machine": machine, "notes": list(found.notes)}


async def _try_import(
    link: Link, place: Place, python: str, machine: Mapping[str, Any], host: HostSettings
) -> None:
    """An onnxruntime that is installed may still not run there."""
    answer = await link.persist(
        lambda connection: connection.call(place.command(python, "-c", "import onnxruntime, numpy"))
    )
    version = machine["fingerprint"].get("onnxruntime")
    if answer.code == _ILLEGAL:
        raise RemoteError(
            f"{host.destination}: onnxruntime {version} does not run on that processor (illegal "
            "instruction): install another version there, or pass --bootstrap"
        )
    if answer.code:
        raise RemoteError(
            f"{host.destination}: onnxruntime {version} cannot be imported by {python}: "
            f"{answer.error or f'status {answer.code}'}; install it anew, or pass --bootstrap"
        )


async def _copy(
    link: Link, place: Place, uploads: list[Upload], tell: Callable[[str], None]
) -> None:
    total = sum(upload.source.stat().st_size for upload in uploads)
    tell(f"copying {total / 1e6:.1f} MB")
    told = 0

    def step(sent: int) -> None:
        nonlocal told
        now = _TOLD_STEPS * sent // max(total, 1)
        if told < now < _TOLD_STEPS and total > _WORTH_TELLING:
            tell(f"copied {sent / 1e6:.1f} of {total / 1e6:.1f} MB")
        told = max(told, now)

    await link.persist(lambda connection: place.copy(connection, uploads, step=step))


async def _run_job(
    link: Link, place: Place, python: str, task: Task, names: list[str], host: HostSettings
) -> dict[str, Any]:
    request = {"bundles": names, "settings": dict(task.settings)}
    await link.persist(lambda connection: place.write(connection, "REQUEST.json", request))
    code, error = await link.run([python, "-m", task.job, "REQUEST.json", "RESULT.json"])
    if code == -signal.SIGKILL:
        raise RemoteError(
            f"{host.destination}: the job was killed (signal 9): out of memory, most likely; "
            "measure a smaller bundle, or add swap"
        )
    if code < 0:
        raise RemoteError(
            f"{host.destination}: the job was ended by {signal.Signals(-code).name}; {error}"
        )
    if code:
        raise RemoteError(
            f"{host.destination}: {error.removeprefix('error: ') or f'the job ended with {code}'}"
        )
    text = await link.read("RESULT.json")
    if text is None:
        raise RemoteError(f"{host.destination}: the job wrote no result; run it again")
    result: dict[str, Any] = json.loads(text)
    return result
