"""Write a model as ONNX Runtime has optimized it, so that a device need not.

Optimized at EXTENDED, never higher: beyond it come layouts of the CPU the file is written on, and
an x86's do not load on ARM. Folded constants may make the file larger than the one it is made of.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort

from primesvt_deploy.errors import ExportError

__all__ = ["write_optimized_onnx", "write_ort_file"]


def write_ort_file(onnx_path: str | os.PathLike[str], ort_path: str | os.PathLike[str]) -> Path:
    """Write `onnx_path`, optimized, in ONNX Runtime's own format, which can be mapped into memory.

    Args:
        onnx_path: a model file.
        ort_path: the file to write, replaced whole if it exists; must end with `.ort`.

    Returns:
        `ort_path`.

    Raises:
        ExportError: another ending, or ONNX Runtime refuses the model.
    """
    target = Path(ort_path)
    if target.suffix != ".ort":
        raise ExportError(f"{target.name} does not end with .ort: onnxruntime tells it by that")
    beside = _optimized(onnx_path, target, {"session.save_model_format": "ORT"})
    os.replace(beside, target)
    return target


def write_optimized_onnx(
    onnx_path: str | os.PathLike[str], out_path: str | os.PathLike[str]
) -> Path:
    """Write `onnx_path`, optimized, as ONNX.

    Args:
        onnx_path: a model file.
        out_path: the file to write, replaced whole if it exists.

    Returns:
        `out_path`.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """
    target = Path(out_path)
    beside = _optimized(onnx_path, target, {"session.save_model_format": "ONNX"})
    proto = onnx.load(beside)
    used = _domains(proto)
    # ONNX Runtime lists all domains it knows, in versions that older ones refuse.
    kept = [entry for entry in proto.opset_import if _canonical(entry.domain) in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    beside.write_bytes(proto.SerializeToString())
    os.replace(beside, target)
    return target


def _optimized(onnx_path: str | os.PathLike[str], target: Path, entries: dict[str, str]) -> Path:
    """A file beside `target` that holds the optimized model."""
    beside = target.with_name(f"{target.name}.partial")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(beside)
    options.log_severity_level = 3
    # Else DequantizeLinear -> MatMul becomes MatMulNBits, which computes something else.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(os.fspath(onnx_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        beside.unlink(missing_ok=True)
        reason = str(error).splitlines()[0][:200]
        raise ExportError(
            f"onnxruntime {ort.__version__} cannot optimize {Path(onnx_path).name}: {reason}"
        ) from error
    return beside


def _domains(proto: onnx.ModelProto) -> set[str]:
    graph = ir.serde.deserialize_model(proto).graph
    used = {_canonical(node.domain) for node in ir.traversal.RecursiveGraphIterator(graph)}
    return used | {_canonical(function.domain) for function in proto.functions}


def _canonical(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
