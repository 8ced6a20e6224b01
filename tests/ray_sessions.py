"""Sessions with Ray for tests, and the processes that one leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.settings import ComputeSettings

__all__ = ["children", "needs_ray", "runs", "two_workers"]

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'primesvt-deploy[cluster]'"
)


@contextmanager
def two_workers() -> Iterator[RaySession]:
    """A private session of two workers on the CPU."""
    with RaySession(ComputeSettings(workers=2, device="cpu")) as session:
        yield session


def children(process: int) -> set[int]:
    """Processes that stem from one, of those that run."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended
        if state != "Z":
            parents[int(entry.parent.name)] = int(parent)
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def runs(process: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
