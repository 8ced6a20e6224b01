"""Measure bundles on a host over SSH: the entry, which needs asyncssh only when it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

__all__ = ["JOB", "run_on_host"]

JOB = "primesvt_deploy.edge.bench.job"
"""The module that runs on the host: `python3 -m JOB REQUEST.json RESULT.json`."""


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
    """Copy bundles and the measuring code to a host, run the job there, fetch its result.

    A lost connection may come back for `patience_s`; the job goes on meanwhile. Nothing is left on
    the host, whatever happens, but the environment of `bootstrap`.

    Args:
        host: the host.
        bundles: bundle directories or model files on this machine.
        settings: the job's settings, as plain values of JSON.
        requires: oldest onnxruntime that will do, by operator, as in `session.json`.
        tell: receives a line for the user.
        need_bytes: memory that a run takes, bytes; 0: not known.
        job: the module to run on the host.

    Returns:
        The job's result, and `preflight`: `machine` (fingerprint and state before the job) and
        `notes`.

    Raises:
        RemoteError: the host cannot be reached or used, or the job fails; one line.
        KeyboardInterrupt: after the host was cleaned up.
    """
    try:
        from primesvt_deploy.devices.ssh.remote_benchmark import RemoteRequest, measure_on_host
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "asyncssh":
            raise
        raise RemoteError("--host needs asyncssh: pip install 'primesvt-deploy[ssh]'") from error
    request = RemoteRequest(
        bundles=tuple(bundles), settings=settings, requires=requires, need_bytes=need_bytes, job=job
    )
    return asyncio.run(measure_on_host(host, request, tell=tell))
