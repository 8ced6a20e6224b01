"""The lowering, pass by pass: from a trained torch network to the graph of its artifact.

On the torch module:

    stateless_copy    neurons become stateless arithmetic, in a copy
    fold_batchnorm    norms, channel scales and input gains go into the weights before them
    trace             the module becomes a graph in which each neuron is one LIF node

On the graph:

    FoldConstants     silent branches leave, and what they inject goes into a bias before them
    Unroll            float32: each neuron becomes standard operators, timestep by timestep
    LowerToIntegers   int8 and int4: the same, on integers wherever tensors hold spike counts
    Cleanup           names follow the torch modules, and nothing dead is left

The native runtime takes another way after FoldConstants: `lower_to_native` makes a program of the
same graph, by the same analysis of spike counts and the same decisions on layers.

Each pass checks what it requires and ensures, and says whether it modified anything
(`lowering.contract`); a condition that does not hold is an `ExportError` with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from torch import nn

from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.cleanup import Cleanup
from primesvt_deploy.lowering.fold_batchnorm import fold_batchnorm
from primesvt_deploy.lowering.fold_constants import FoldConstants
from primesvt_deploy.lowering.integer.lower import LowerToIntegers
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.metadata import FOLDED_KEY, UnrolledLayer
from primesvt_deploy.lowering.native.lower import lower_to_native
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.neuron_pass import NeuronPass
from primesvt_deploy.lowering.stateless import stateless_copy
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import Unroll
from primesvt_deploy.settings import Precision

__all__ = ["LoweredGraph", "lower_to_graph", "lower_to_program"]


@dataclass(frozen=True, kw_only=True)
class LoweredGraph:
    """The graph of an artifact, and how its layers were lowered.

    Args:
        model: the graph.
        layers: its neuron layers, in order, without those of branches that never fire.
        integer_layers: names of the weighted layers that run on integers.
        float_layers: weighted layers that run on float32 though the precision is less, and why.
        weight_bits: bits of a stored weight, by layer, where they are fewer than 32.
    """

    model: ir.Model
    layers: tuple[UnrolledLayer, ...]
    integer_layers: tuple[str, ...]
    float_layers: Mapping[str, str]
    weight_bits: Mapping[str, int]


def lower_to_graph(
    network: SpikingNetwork,
    config: NetworkConfig,
    *,
    batch: int | None = None,
    precision: Precision = Precision.FP32,
    standard: bool = False,
) -> LoweredGraph:
    """Lower a network to the graph of its artifact.

    Args:
        network: float32; it is left as it is. For less than float32 a quantized one.
        config: says what the input is.
        batch: a fixed batch size, or None for a dynamic one.
        precision: of the weights. With less than float32, layers that receive spike counts run on
            integers, through `com.microsoft.MatMulIntegerToFloat`.
        standard: standard ONNX operators only.

    Raises:
        ExportError: the network cannot be traced, or a pass is given what it cannot lower.
    """
    module = stateless_copy(network)
    fold_batchnorm(module)
    traced = trace(module, config, batch)
    # A bundle of a user's own class must list every neuron of it (`adoption_check.check_neurons`).
    if network.couplings_declared:
        FoldConstants(exact=precision is not Precision.FP32)(traced)
    lowered = _neuron_pass(precision, standard)(traced)
    if network.couplings_declared:
        _record_folded(lowered.model, module, lowered.layers)
    Cleanup()(lowered)
    return LoweredGraph(
        model=lowered.model,
        layers=lowered.layers,
        integer_layers=lowered.integer_layers,
        float_layers=lowered.float_layers,
        weight_bits=lowered.weight_bits,
    )


def lower_to_program(
    network: SpikingNetwork,
    config: NetworkConfig,
    *,
    precision: Precision,
    observe_float_layers: bool = False,
) -> NativeProgram:
    """Lower a quantized network to a program of the native engine, for one sample at a time.

    Args:
        network: from `quantization.quantize`; it is left as it is.
        config: says what the input is.
        precision: of the weights; int8 or int4.
        observe_float_layers: keep the outputs of float layers, for an observer.

    Raises:
        ExportError: the network cannot be traced, or has what the engine cannot run.
    """
    module = stateless_copy(network)
    fold_batchnorm(module)
    traced = trace(module, config, 1)
    if network.couplings_declared:
        FoldConstants(exact=True)(traced)
    return lower_to_native(
        traced, pack=precision is Precision.INT4, observe_float_layers=observe_float_layers
    )


def _neuron_pass(precision: Precision, standard: bool) -> NeuronPass:
    if precision is Precision.FP32:
        return Unroll()
    return LowerToIntegers(standard=standard, pack=precision is Precision.INT4)


def _record_folded(model: ir.Model, module: nn.Module, layers: Sequence[UnrolledLayer]) -> None:
    """Record the neuron layers that are missing: folded, or merged with an equal one in tracing."""
    left = {layer.name for layer in layers}
    neurons = (name for name, m in module.named_modules() if isinstance(m, UnrolledNeuron))
    folded = [n for name in neurons if (n := name.removesuffix(".neuron")) not in left]
    if folded:
        model.metadata_props[FOLDED_KEY] = json.dumps(folded)
