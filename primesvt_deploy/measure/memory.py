"""Resident memory of a model in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime import memory
from primesvt_deploy.edge.runtime.profiles import LATENCY, SessionProfile
from primesvt_deploy.errors import BundleError, DeployError

__all__ = ["MemoryUse", "measure_memory"]


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of a fresh Python process that runs a model.

    Args:
        profile: name of the session profile.
        stages: bytes of `VmHWM` (peak so far), `VmRSS` (resident) and `RssAnon` (resident and not
            backed by a file), at `start`, `imported` (numpy, onnxruntime), `session`, `first run`
            and `steady`.
    """

    profile: str
    stages: Mapping[str, Mapping[str, int]]

    @property
    def peak(self) -> int:
        """Peak resident memory, bytes."""
        return self.stages["steady"]["VmHWM"]

    @property
    def imported(self) -> int:
        """Peak before a model is loaded, bytes: Python, numpy and onnxruntime."""
        return self.stages["imported"]["VmHWM"]

    @property
    def anonymous(self) -> int:
        """Resident memory in steady state that no file backs, bytes."""
        return self.stages["steady"]["RssAnon"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "profile": self.profile,
            "peak_bytes": self.peak,
            "imported_bytes": self.imported,
            "anonymous_bytes": self.anonymous,
            "stages": {stage: dict(figures) for stage, figures in self.stages.items()},
        }


def measure_memory(
    path: str | os.PathLike[str],
    *,
    profile: SessionProfile | str = LATENCY,
    threads: int = 0,
    batch: int = 1,
    runs: int = 20,
) -> MemoryUse:
    """Load and run a model in a fresh process and read its resident memory.

    Args:
        path: a model file.
        profile: how to load it: a profile, or `latency`, `low-memory` or `defaults` (those of ONNX
            Runtime itself).
        threads: threads of ONNX Runtime; 0: its own choice.
        batch: samples a run.
        runs: after the first, until memory is called steady.

    Raises:
        BundleError: the model cannot be loaded or run.
        DeployError: the system does not report memory use; Linux does.
    """
    name = profile if isinstance(profile, str) else profile.name
    requested = profile if isinstance(profile, str) else json.dumps(profile.to_dict())
    command = [sys.executable, "-m", memory.__name__, os.path.abspath(path), "--profile", requested]
    command += ["--threads", str(threads), "--batch", str(batch), "--runs", str(runs)]
    home = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search}
    )
    if ended.returncode:
        raise BundleError(_last_words(Path(path).name, ended))
    stages = json.loads(ended.stdout)
    if None in stages["start"].values():
        raise DeployError("this system has no /proc/self/status: measure memory on Linux")
    return MemoryUse(name, stages)


def _last_words(name: str, ended: subprocess.CompletedProcess[str]) -> str:
    """Explain in one line how a process failed."""
    if ended.returncode < 0:
        how = f"was ended by {signal.Signals(-ended.returncode).name}: is there enough memory?"
    else:
        lines = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
        how = f"failed: {lines[-1].removeprefix('error: ')}"
    return f"measuring the memory of {name} {how}"
