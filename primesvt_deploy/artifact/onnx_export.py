"""Export a SViT to one self-contained ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.metadata import UnrolledLayer
from primesvt_deploy.lowering.passes import TracedNetwork, lower_to_graph
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision
from primesvt_deploy.summary import Shown, Summary, megabytes

__all__ = ["Artifact", "export_onnx", "write_onnx"]

_IR_VERSION = 8
"""The ONNX file format that goes with opset 18; onnxruntime 1.20 reads up to 10."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Artifact(Shown):
    """An exported ONNX file.

    Args:
        path: the file.
        bytes: its size.
        initializer_bytes: of that, weights and constants.
        layers: its neuron layers, in order, without those of branches that never fire.
        batch: fixed batch size, or None for any.
        precision: of its weights.
        integer_layers: weighted layers that run on integers.
        float_layers: weighted layers that run on float32 though the precision is less, and why.
        weight_bits: bits of a stored weight, by layer, where they are fewer than 32.
    """

    path: Path
    bytes: int
    initializer_bytes: int
    layers: tuple[UnrolledLayer, ...]
    batch: int | None
    precision: Precision = Precision.FP32
    integer_layers: tuple[str, ...] = ()
    float_layers: Mapping[str, str] = field(default_factory=dict)
    weight_bits: Mapping[str, int] = field(default_factory=dict)

    def _summary(self) -> Summary:
        integers, floats = len(self.integer_layers), len(self.float_layers)
        split = f", {integers} layers on integers, {floats} on float32" if integers else ""
        return Summary(
            f"Artifact {self.path}",
            (
                ("size", f"{megabytes(self.bytes)}, weights {megabytes(self.initializer_bytes)}"),
                ("precision", f"{self.precision.value}{split}"),
                ("neurons", f"{len(self.layers)} layers"),
                ("batch", "any" if self.batch is None else str(self.batch)),
            ),
        )


def export_onnx(
    model: SViT,
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: Precision = Precision.FP32,
    standard: bool = False,
    traced: TracedNetwork | None = None,
) -> Artifact:
    """Write `model` as ONNX, opset 18, lowered as `lowering.passes` says.

    Args:
        model: what to export; for less than float32 one from `quantization.quantize`.
        path: the file, replaced whole if it exists.
        batch: a fixed batch size, or None for a dynamic one.
        precision: of the weights. With less than float32, layers that receive spike counts run on
            integers, through `com.microsoft.MatMulIntegerToFloat`.
        standard: standard ONNX operators only.
        traced: the model's network with that batch, if it is traced already.

    Raises:
        ExportError: the model cannot be traced or lowered, or the graph is not valid ONNX.
    """
    lowered = lower_to_graph(
        model.module.float(),
        model.config,
        batch=batch,
        precision=precision,
        standard=standard,
        traced=traced,
    )
    target = Path(path)
    lowered.model.graph.name = model.name
    lowered.model.ir_version = _IR_VERSION
    write_onnx(ir.serde.serialize_model(lowered.model), target)
    return Artifact(
        path=target,
        bytes=target.stat().st_size,
        initializer_bytes=_initializer_bytes(lowered.model.graph),
        layers=lowered.layers,
        batch=batch,
        precision=precision,
        integer_layers=lowered.integer_layers,
        float_layers=lowered.float_layers,
        weight_bits=lowered.weight_bits,
    )


def write_onnx(model: onnx.ModelProto, target: Path) -> None:
    """Write a model, if it is valid.

    Raises:
        ExportError: it is not valid ONNX.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    write_whole(target, model.SerializeToString())


def _initializer_bytes(graph: ir.Graph) -> int:
    stored = (value.const_value for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in stored if tensor is not None)
