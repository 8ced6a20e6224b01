"""Measure the memory that a model takes in this process, stage by stage.

    python -m runtime.memory model.onnx --profile low-memory

in a bundle's directory, or `python -m primesvt_deploy.edge.runtime.memory`. For figures that mean
anything the process must be fresh, so nothing here imports numpy or onnxruntime before its stage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .checked_json import parse_json
from .errors import BundleError, DeployError
from .profiles import LATENCY, SessionProfile, make_profile

if TYPE_CHECKING:
    from .session import OnnxModel

__all__ = ["FIGURES", "STAGES", "main", "measure_stages", "resident"]

FIGURES = ("VmHWM", "VmRSS", "RssAnon")
"""Peak resident memory, resident memory, and the part of it that no file backs."""
STAGES = ("start", "imported", "session", "first run", "steady")
_RUNS = 20
_STATUS = "/proc/self/status"


def resident() -> dict[str, int | None]:
    """The `FIGURES` of this process, bytes; None where the system does not report one."""
    found: dict[str, int | None] = dict.fromkeys(FIGURES)
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in found:
                    found[key] = 1024 * int(value.split()[0])
    except OSError:
        pass
    return found


def measure_stages(
    load: Callable[[], OnnxModel], *, batch: int = 1, runs: int = _RUNS
) -> dict[str, dict[str, int | None]]:
    """Measure the `FIGURES` at each of the `STAGES`, bytes; `steady` is after some further runs.

    Args:
        load: opens the model.
        batch: number of samples in a run.
        runs: number of further runs.

    Raises:
        BundleError: the model cannot be loaded.
    """
    stages = {"start": resident()}
    import numpy as np

    from . import session  # noqa: F401

    stages["imported"] = resident()
    model = load()
    stages["session"] = resident()
    # Written, so that its pages are there: fresh zeros would cost nothing.
    value = 128 if model.sample_dtype == np.uint8 else 0.5
    samples = np.full((batch, *model.sample_shape), value, dtype=model.sample_dtype)
    model.logits(samples)
    stages["first run"] = resident()
    for _ in range(runs):
        model.logits(samples)
    stages["steady"] = resident()
    return stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print JSON; the exit code: 0, or 2 with one line."""
    parser = argparse.ArgumentParser(description="Memory of a model, in bytes, stage by stage.")
    parser.add_argument("model", help="model file or bundle")
    parser.add_argument(
        "--profile",
        help="latency, low-memory, defaults (ONNX Runtime's own) or one as JSON",
    )
    parser.add_argument("--threads", type=int, default=0, help="0: one a physical core")
    parser.add_argument("--batch", type=int, default=1, help="samples a run (default 1)")
    parser.add_argument("--runs", type=int, default=_RUNS, help="after the first (default 20)")
    options = parser.parse_args(arguments)

    def load() -> OnnxModel:
        from .session import OnnxModel

        path, threads, name = options.model, options.threads, options.profile
        if os.path.isdir(path):
            from .bundle import open_bundle

            return OnnxModel.of_bundle(open_bundle(path), threads=threads, profile=name)
        return OnnxModel(path, threads=threads, profile=_profile(name or LATENCY, path))

    try:
        print(json.dumps(measure_stages(load, batch=options.batch, runs=options.runs)))
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _profile(text: str, path: str) -> SessionProfile:
    if not text.startswith("{"):
        return make_profile(text, os.path.basename(path))
    try:
        return SessionProfile.from_dict(parse_json(text))
    except ValueError as error:
        raise BundleError("--profile is not complete JSON: pass a name, or correct it") from error


if __name__ == "__main__":
    sys.exit(main())
