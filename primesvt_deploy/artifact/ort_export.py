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

from primesvt_deploy.edge.whole_file import whole_file
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
    with whole_file(target) as temporary:
        _write_optimized(onnx_path, temporary, "ORT")
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
    with whole_file(target) as temporary:
        _write_optimized(onnx_path, temporary, "ONNX")
        proto = onnx.load(temporary)
        used = _domains(proto)
        # ONNX Runtime lists all domains it knows, in versions that older ones refuse.
        kept = [entry for entry in proto.opset_import if _canonical(entry.domain) in used]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)
        temporary.write_bytes(proto.SerializeToString())
    return target


def _write_optimized(onnx_path: str | os.PathLike[str], path: Path, save_format: str) -> None:
    """Write the optimized model to `path` as ORT or ONNX."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    # Else DequantizeLinear -> MatMul becomes MatMulNBits, which computes something else.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.save_model_format", save_format)
    try:
        ort.InferenceSession(os.fspath(onnx_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        reason = str(error).splitlines()[0][:200]
        raise ExportError(
            f"onnxruntime {ort.__version__} cannot optimize {Path(onnx_path).name}: {reason}"
        ) from error


def _domains(proto: onnx.ModelProto) -> set[str]:
    graph = ir.serde.deserialize_model(proto).graph
    used = {_canonical(node.domain) for node in ir.traversal.RecursiveGraphIterator(graph)}
    return used | {_canonical(function.domain) for function in proto.functions}


def _canonical(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
