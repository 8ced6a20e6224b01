"""Ray as this package imports it: without statistics of its use, and quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from primesvt_deploy.errors import NotInstalledError

__all__ = ["only_loopback", "ray_library", "unheard"]

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

    before, was = os.environ.get(_LOOPBACK_VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_LOOPBACK_VARIABLE] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was
        if before is None:
            del os.environ[_LOOPBACK_VARIABLE]
        else:
            os.environ[_LOOPBACK_VARIABLE] = before


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
