"""Ray as this package imports it: without statistics of its use, and quiet."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from primesvt_deploy.errors import NotInstalledError

__all__ = [
    "AUTH_MODE",
    "only_loopback",
    "own_modules",
    "own_token",
    "ray_library",
    "token_mode",
    "unheard",
]

AUTH_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def ray_library() -> Any:
    """The `ray` module.

    Raises:
        NotInstalledError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own warnings of versions to come, which a user of this package cannot act upon.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise NotInstalledError(
            "--workers and --ray need ray, which is not installed: "
            "pip install 'primesvt-deploy[cluster]'"
        ) from error
    return ray


@contextmanager
def only_loopback() -> Iterator[None]:
    """Keep what Ray starts meanwhile on 127.0.0.1: whoever reaches a port of Ray can run code.

    Ray takes 127.0.0.1 for this machine's address in its network, and listens there, but for this
    switch, which it has for Windows and macOS; it works on Linux as well.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _variable(_LOOPBACK_VARIABLE, "0"):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def own_modules() -> Iterator[None]:
    """Have workers that a private Ray starts meanwhile find the modules that this process finds."""
    with _variable("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path)):
        yield


@contextmanager
def own_token() -> Iterator[None]:
    """Have the private Ray that starts meanwhile obey this process alone, not others' on 127.0.0.1.

    From Ray 2.60 on; it would write a token to the user's home otherwise.
    """
    with _variable(_TOKEN, process_token()), token_mode(True):
        yield


@contextmanager
def token_mode(demanded: bool) -> Iterator[None]:
    """Speak with a cluster that demands a token, or with one that knows of none.

    Both sides have to agree: a driver that demands one is not heard by a cluster without.
    """
    with _variable(AUTH_MODE, "token" if demanded else "disabled"):
        _read_variables_again()
        yield
    _read_variables_again()


def _read_variables_again() -> None:
    """Have Ray's C++ part read the environment: it remembers what it read at first."""
    import_module("ray._raylet").Config.initialize("")


@cache
def process_token() -> str:
    """The token of all private sessions of this process: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def unheard() -> Iterator[None]:
    """Keep Ray from printing that a worker died: the calls of that worker are repeated."""
    from ray._private import worker

    before = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_args, **_options: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
