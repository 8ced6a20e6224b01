"""Measure bundles on a host, from the first word to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

__all__ = ["JOB", "run_on_host"]

JOB = "primesvt_deploy.edge.bench.job"
"""The module that measures there: `python3 -m JOB REQUEST.json RESULT.json`."""


def run_on_host(
    host: HostSettings,
    bundles: Sequence[Path],
    settings: Mapping[str, Any],
    *,
    requires: Mapping[str, str],
    tell: Callable[[str], None],
    need_bytes: int = 0,
    job: str = JOB,
) -> dict[str, Any]:
    """Copy bundles and what runs them to a host, run the job there, fetch what it found.

    A lost connection may come back for `patience_s`; the job goes on meanwhile. Nothing is left on
    the host, whatever happens, beside the environment of `bootstrap`.

    Args:
        host: the host.
        bundles: directories here.
        settings: what the job is asked for, JSON-ready.
        requires: the least onnxruntime, by operator, as in `session.json`.
        tell: takes a line for the user.
        need_bytes: memory that a run takes, if known.
        job: the module to run there.

    Returns:
        What the job wrote, and `preflight`: `machine` (fingerprint and state before the job) and
        `notes`.

    Raises:
        RemoteError: one line: what was found, what to do.
        KeyboardInterrupt: after the host was cleaned up.
    """
    try:
        from primesvt_deploy.devices.ssh.steps import Task, measure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "asyncssh":
            raise
        raise RemoteError("--host needs asyncssh: pip install 'primesvt-deploy[ssh]'") from error
    task = Task(
        bundles=tuple(bundles), settings=settings, requires=requires, need_bytes=need_bytes, job=job
    )
    return asyncio.run(measure(host, task, tell=tell))
