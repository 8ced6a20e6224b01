"""Export a SViT to one self-contained ONNX file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir
from torch import nn

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.cleanup import tidy
from primesvt_deploy.lowering.fold_constants import FOLDED_KEY, fold_constants
from primesvt_deploy.lowering.integer.lower import lower_to_integers
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import UnrolledLayer, unroll
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision

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


def export_onnx(
    model: SViT,
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: Precision = Precision.FP32,
    standard: bool = False,
) -> Artifact:
    """Write `model` as ONNX, opset 18: norms and silent branches folded, neurons unrolled over T.

    Args:
        model: what to export; for less than float32 one from `quantization.quantize`.
        path: the file, replaced whole if it exists.
        batch: a fixed batch size, or None for a dynamic one.
        precision: of the weights. With less than float32, layers that receive counts of spikes
            run on integers, through `com.microsoft.MatMulIntegerToFloat`.
        standard: standard ONNX operators only.

    Raises:
        ExportError: the model cannot be traced, or the graph is not valid ONNX.
    """
    lowered = lower_module(model.module.float())
    traced = trace(lowered, model.config, batch)
    # A bundle of a user's own class must list every neuron of it (`adoption_check.check_neurons`).
    folds = model.module.couplings_declared
    if folds:
        fold_constants(traced, exact=precision is not Precision.FP32)
    integer: tuple[str, ...] = ()
    real: Mapping[str, str] = {}
    bits: Mapping[str, int] = {}
    if precision is Precision.FP32:
        layers = unroll(traced)
    else:
        integers = lower_to_integers(traced, standard=standard, pack=precision is Precision.INT4)
        traced, layers = integers.model, integers.layers
        integer, real, bits = integers.integer, integers.real, integers.bits
    lost = _lost(lowered, layers) if folds else []
    if lost:
        traced.metadata_props[FOLDED_KEY] = json.dumps(lost)
    tidy(traced)
    target = Path(path)
    _write(traced, model.name, target)
    return Artifact(
        path=target,
        bytes=target.stat().st_size,
        initializer_bytes=sum(
            value.const_value.nbytes
            for value in traced.graph.initializers.values()
            if value.const_value is not None
        ),
        layers=layers,
        batch=batch,
        precision=precision,
        integer_layers=integer,
        float_layers=real,
        weight_bits=bits,
    )


def _lost(lowered: nn.Module, layers: Sequence[UnrolledLayer]) -> list[str]:
    """The neuron layers that the graph has not: folded, or merged with an equal one in tracing."""
    left = {layer.name for layer in layers}
    neurons = (name for name, m in lowered.named_modules() if isinstance(m, UnrolledNeuron))
    return [n for name in neurons if (n := name.removesuffix(".neuron")) not in left]


def _write(model: ir.Model, name: str, target: Path) -> None:
    model.graph.name = name
    model.ir_version = _IR_VERSION
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    write_whole(target, proto.SerializeToString())
