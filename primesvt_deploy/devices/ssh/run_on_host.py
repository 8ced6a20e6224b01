"""Measure bundles on a host over SSH: the entry, which needs asyncssh only when it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.edge.bench.result_schema import check_measured
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX
from primesvt_deploy.errors import RemoteError, SettingsError

__all__ = ["JOB", "run_on_host"]

JOB = "primesvt_deploy.edge.bench.job"
"""The module that runs on the host: `python3 -m JOB REQUEST.json RESULT.json`."""


def run_on_host(
    host: HostSettings,
    bundles: Sequence[Path],
    settings: Mapping[str, Any],
    *,
    requires: Mapping[str, str],
    runtimes: Sequence[str] = (ONNX,),
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
        runtimes: the runtimes that are measured; a host without any of the others will do.
        tell: receives a line for the user.
        need_bytes: memory that a run takes, bytes; 0: not known.
        job: the module to run on the host.

    Returns:
        The job's result, and `preflight`: `machine` (fingerprint and state before the job) and
        `notes`; with a cross compiler also `cross_compiler`, its version.

    Raises:
        SettingsError: a cross compiler that is not there, fails, or has nothing to compile.
        RemoteError: the host cannot be reached or used, the job fails, or what comes back is no
            result; one line.
        KeyboardInterrupt: after the host was cleaned up.
    """
    try:
        from primesvt_deploy.devices.ssh.remote_benchmark import RemoteRequest, measure_on_host
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "asyncssh":
            raise
        raise RemoteError("--host needs asyncssh: pip install 'primesvt-deploy[ssh]'") from error
    request = RemoteRequest(
        bundles=tuple(bundles),
        settings=settings,
        requires=requires,
        runtimes=tuple(runtimes),
        need_bytes=need_bytes,
        job=job,
    )
    if host.compiler is not None and NATIVE not in request.runtimes:
        raise SettingsError(
            "--cc compiles the native runtime, in which nothing is measured: leave it out, or "
            "build with --runtime both"
        )
    result = asyncio.run(measure_on_host(host, request, tell=tell))
    if job == JOB:
        try:
            check_measured(result)
        except ValueError as error:
            raise RemoteError(
                f"{host.destination}: its result is damaged: {error}; measure again"
            ) from error
    return result
