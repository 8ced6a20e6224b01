"""Peak resident memory of the native engine in a process of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from primesvt_deploy.edge.bench.native_program import build_program, program_peak_bytes

__all__ = ["native_peak_bytes"]


def native_peak_bytes(path: str | os.PathLike[str]) -> int:
    """Peak resident memory of `classify`, the engine's example program, which runs one sample.

    Args:
        path: a `model.svit`.

    Returns:
        Bytes, of the program, its libraries and the whole model file.

    Raises:
        BundleError: the program cannot be compiled or run.
    """
    with tempfile.TemporaryDirectory(prefix="svit-") as name:
        return program_peak_bytes(build_program(Path(name)), path)
