"""Export a SViT to one self-contained ONNX file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.lowering.tidy import tidy
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import UnrolledLayer, unroll
from primesvt_deploy.model import SViT

__all__ = ["Artifact", "export_onnx"]

_IR_VERSION = 8
"""The ONNX file format that goes with opset 18; onnxruntime 1.20 reads up to 10."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An exported ONNX file.

    Args:
        path: the file.
        bytes: its size.
        initializer_bytes: of that, weights and constants.
        layers: its neuron layers, in order.
        batch: fixed batch size, or None for any.
    """

    path: Path
    bytes: int
    initializer_bytes: int
    layers: tuple[UnrolledLayer, ...]
    batch: int | None


def export_onnx(model: SViT, path: str | os.PathLike[str], *, batch: int | None = None) -> Artifact:
    """Write `model` as ONNX: norms folded, neurons unrolled over T, float32, opset 18.

    Args:
        model: what to export.
        path: the file, replaced whole if it exists.
        batch: a fixed batch size, or None for a dynamic one.

    Raises:
        ExportError: the model cannot be traced, or the graph is not valid ONNX.
    """
    graph = trace(lower(model.module.float()), model.config, batch)
    layers = unroll(graph)
    tidy(graph)
    graph.graph.name = model.name
    graph.ir_version = _IR_VERSION
    proto = ir.serde.serialize_model(graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    target = Path(path)
    beside = target.with_name(f"{target.name}.partial")
    beside.write_bytes(proto.SerializeToString())
    os.replace(beside, target)
    return Artifact(
        path=target,
        bytes=target.stat().st_size,
        initializer_bytes=sum(
            value.const_value.nbytes
            for value in graph.graph.initializers.values()
            if value.const_value is not None
        ),
        layers=layers,
        batch=batch,
    )
