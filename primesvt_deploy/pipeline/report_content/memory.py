"""Resident memory of the dense and the shipped model, each in fresh processes."""

from __future__ import annotations

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.measure.memory import MemoryUse, measure_memory
from primesvt_deploy.measure.native_memory import native_peak_bytes
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.report.content import MemoryStage

__all__ = ["memory_stages"]

_STAGES = {"import": "imported", "load": "session", "first run": "first run"}
"""Names here, and in `edge.runtime.memory`."""
_PEAK = "peak"


def memory_stages(dense: Artifact, staged: StagedArtifact, threads: int) -> tuple[MemoryStage, ...]:
    """Resident memory after Python and onnxruntime are imported, a model is loaded, and one run.

    Last comes `peak`, the most that there was up to then. A bundle of the native runtime alone
    needs no Python: of it there is the peak of its C program and nothing else.

    Args:
        dense: the dense float32 artifact.
        staged: the shipped model.
        threads: of ONNX Runtime; 0: its own choice.

    Raises:
        DeployError: it cannot be measured here.
    """
    before = measure_memory(dense.path, threads=threads, runs=0)
    if staged.artifact is None:
        assert staged.native is not None
        after, peak = None, native_peak_bytes(staged.native.path)
    else:
        same = staged.is_dense
        after = before if same else measure_memory(staged.artifact.path, threads=threads, runs=0)
        peak = after.peak
    stages = [
        MemoryStage(stage=name, dense=_resident(before, key), shipped=_resident(after, key))
        for name, key in _STAGES.items()
    ]
    return (*stages, MemoryStage(stage=_PEAK, dense=before.peak, shipped=peak))


def _resident(use: MemoryUse | None, stage: str) -> int | None:
    return None if use is None else use.stages[stage]["VmRSS"]
