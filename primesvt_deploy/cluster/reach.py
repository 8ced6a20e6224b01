"""Whether a Ray cluster can be joined, found out in seconds.

`ray.init` itself tries for two minutes, and cannot be interrupted, where nothing or something else
listens. Another process tries first, and is ended when that takes too long.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.cluster.library import AUTH_MODE
from primesvt_deploy.errors import ClusterError, first_line
from primesvt_deploy.settings.compute import host_and_port

__all__ = ["Reached", "check_listens", "reach"]

_CONNECT_SECONDS = 5.0
_JOIN_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_TOKEN = "InvalidAuthToken"
_TRY = """
import json, logging, os, sys
import ray
sys.stdout.flush()
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
try:
    if sys.argv[2] == "loopback":
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
    found = {"address": ray.get_runtime_context().gcs_address}
except BaseException as error:
    found = {"error": str(error.__cause__ or error)}
out.write(json.dumps(found))
out.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class Reached:
    """A cluster that can be joined.

    Args:
        address: HOST:PORT of its head.
        on_loopback: whether it is on this machine, and listens on 127.0.0.1 alone.
        token: whether it demands a token, which Ray then finds at its usual places.
    """

    address: str
    on_loopback: bool
    token: bool


def reach(address: str) -> Reached:
    """Look for a cluster.

    Args:
        address: HOST:PORT of its head, or `auto`.

    Raises:
        SettingsError: the address has another form.
        ClusterError: nothing listens there, it does not answer, it is of another version, or this
            machine is not part of it.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _started_here() or "auto"
    if address == "auto":
        return _joined("auto", on_loopback=False)
    check_listens(address)
    host, port = host_and_port(address)
    return _joined(address, on_loopback=host in _LOOPBACK and _only_loopback(port))


def check_listens(address: str) -> None:
    """Refuse an address at which nothing listens; it takes no import of Ray to see that.

    Args:
        address: HOST:PORT of a cluster's head.

    Raises:
        SettingsError: the address has another form.
        ClusterError: no connection can be made.
    """
    host, port = host_and_port(address)
    error = _why_closed(host, port)
    if error is not None:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}): start one by `ray start --head "
            f"--port={port}`, or pass the address that `ray status` tells"
        )


def _joined(address: str, *, on_loopback: bool) -> Reached:
    """Have another process join the cluster, with a token where it demands one."""
    where = "" if address == "auto" else f" at {address}"
    mode = os.environ.get(AUTH_MODE)
    for token in (False, True) if mode is None else (mode.lower() == "token",):
        found = _try(address, where, on_loopback=on_loopback, token=token)
        if _NO_TOKEN not in found.get("error", ""):
            break
    if "error" in found:
        raise _refused(found["error"], where)
    return Reached(found["address"], on_loopback, token)


def _try(address: str, where: str, *, on_loopback: bool, token: bool) -> dict[str, str]:
    """The address of the cluster, or Ray's error, as another process finds it."""
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        AUTH_MODE: "token" if token else "disabled",
    }
    how = "loopback" if on_loopback else "network"
    with (
        tempfile.TemporaryDirectory() as folder,
        open(Path(folder) / "answer", "w") as answer,
        open(Path(folder) / "told", "w") as told,
        subprocess.Popen(
            [sys.executable, "-c", _TRY, address, how],
            stdout=answer,
            stderr=told,
            env=environment,
        ) as trying,
    ):
        try:
            return _answer(trying, Path(folder), where)
        finally:
            trying.kill()


def _answer(trying: subprocess.Popen[bytes], folder: Path, where: str) -> dict[str, str]:
    """Findings of a process that tries to join, as soon as they are known."""
    until = time.monotonic() + _JOIN_SECONDS
    while trying.poll() is None:
        if _NO_TOKEN in (folder / "told").read_text(errors="replace"):
            return {"error": _NO_TOKEN}  # Ray itself would try on for 20 s
        if time.monotonic() > until:
            raise ClusterError(
                f"no Ray cluster answers{where} within {_JOIN_SECONDS:.0f} s: what listens there "
                "is something else, or this machine is not part of it; look at `ray status`"
            )
        time.sleep(_LOOK_SECONDS)
    try:
        found: dict[str, str] = json.loads((folder / "answer").read_text())
    except ValueError as error:
        reason = _last((folder / "told").read_text(errors="replace"))
        raise ClusterError(f"Ray cannot join the cluster{where}: {reason}") from error
    return found


def _refused(message: str, where: str) -> ClusterError:
    """The error of a message of Ray."""
    versions = re.findall(r"(Ray|Python): (\S+)", message)
    if message.startswith("Version mismatch") and len(versions) == 4:
        (_, their_ray), (_, their_python), (_, our_ray), (_, our_python) = versions
        return ClusterError(
            f"the Ray cluster{where} runs Ray {their_ray} on Python {their_python}, and this "
            f"process Ray {our_ray} on Python {our_python}: expected the same; pip install "
            f"'ray=={their_ray}' here, or install primesvt-deploy[cluster] there"
        )
    if message.startswith("Could not find any running Ray instance"):
        return ClusterError(
            "no Ray cluster runs on this machine: start one by `ray start --head`, or pass "
            "--ray HOST:PORT"
        )
    if _NO_TOKEN in message or "Token authentication is enabled but" in message:
        return ClusterError(
            f"the Ray cluster{where} demands a token that this process does not have: set "
            "RAY_AUTH_TOKEN_PATH to the file that `ray get-auth-token` names there, and "
            "RAY_AUTH_MODE=token"
        )
    reason = first_line(ValueError(message))
    return ClusterError(f"the Ray cluster{where} cannot be joined from this machine: {reason}")


def _started_here() -> str | None:
    """The address that `ray start` has left on this machine."""
    from ray._private.utils import read_ray_address

    found: str | None = read_ray_address()
    return found


def _why_closed(host: str, port: int) -> str | None:
    """Reason that no connection to a port can be made; None: one can."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return None
    except OSError as error:
        return str(error.strerror or error).lower()


def _only_loopback(port: int) -> bool:
    """Whether a port of 127.0.0.1 is closed on this machine's address, which Ray takes instead."""
    from ray._private.services import resolve_ip_for_localhost

    return _why_closed(resolve_ip_for_localhost("127.0.0.1"), port) is not None


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else "it says no reason"
