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

__all__ = [
    "LoweredGraph",
    "TracedNetwork",
    "lower_to_graph",
    "lower_to_program",
    "trace_network",
]


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


@dataclass(frozen=True)
class TracedNetwork:
    """A network as a graph in which each neuron is one LIF node.

    Args:
        graph: without its silent branches, where they can be told.
        neurons: names of the network's neuron layers.
        couplings_declared: whether silent branches can be told: the network is of a known family.
    """

    graph: ir.Model
    neurons: tuple[str, ...]
    couplings_declared: bool


def trace_network(
    network: SpikingNetwork, config: NetworkConfig, *, batch: int | None = None, exact: bool
) -> TracedNetwork:
    """Trace a network, with its norms and silent branches folded.

    Args:
        network: float32; it is left as it is. For integers a quantized one.
        config: says what the input is.
        batch: a fixed batch size, or None for any.
        exact: for integers: nothing is added in another order than the network does it.

    Raises:
        ExportError: the network cannot be traced.
    """
    module = stateless_copy(network)
    fold_batchnorm(module)
    traced = trace(module, config, batch)
    # A bundle of a user's own class must list every neuron of it (`adoption_check.check_neurons`).
    if network.couplings_declared:
        FoldConstants(exact=exact)(traced)
    neurons = (name for name, m in module.named_modules() if isinstance(m, UnrolledNeuron))
    names = tuple(name.removesuffix(".neuron") for name in neurons)
    return TracedNetwork(traced, names, network.couplings_declared)


def lower_to_graph(
    network: SpikingNetwork,
    config: NetworkConfig,
    *,
    batch: int | None = None,
    precision: Precision = Precision.FP32,
    standard: bool = False,
    traced: TracedNetwork | None = None,
) -> LoweredGraph:
    """Lower a network to the graph of its artifact.

    Args:
        network: float32; it is left as it is. For less than float32 a quantized one.
        config: says what the input is.
        batch: a fixed batch size, or None for a dynamic one.
        precision: of the weights. With less than float32, layers that receive spike counts run on
            integers, through `com.microsoft.MatMulIntegerToFloat`.
        standard: standard ONNX operators only.
        traced: the network with that batch, if it is traced already; left as it is for integers.

    Raises:
        ExportError: the network cannot be traced, or a pass is given what it cannot lower.
    """
    if traced is None:
        traced = trace_network(network, config, batch=batch, exact=precision is not Precision.FP32)
    lowered = _neuron_pass(precision, standard)(traced.graph)
    if traced.couplings_declared:
        _record_folded(lowered.model, traced.neurons, lowered.layers)
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
    traced: TracedNetwork | None = None,
) -> NativeProgram:
    """Lower a quantized network to a program of the native engine, for one sample at a time.

    Args:
        network: from `quantization.quantize`; it is left as it is.
        config: says what the input is.
        precision: of the weights; int8 or int4.
        observe_float_layers: keep the outputs of float layers, for an observer.
        traced: the network with any batch, or of 1, if it is traced already; left as it is.

    Raises:
        ExportError: the network cannot be traced, or has what the engine cannot run.
    """
    if traced is None:
        traced = trace_network(network, config, exact=True)
    return lower_to_native(
        traced.graph,
        pack=precision is Precision.INT4,
        observe_float_layers=observe_float_layers,
    )


def _neuron_pass(precision: Precision, standard: bool) -> NeuronPass:
    if precision is Precision.FP32:
        return Unroll()
    return LowerToIntegers(standard=standard, pack=precision is Precision.INT4)


def _record_folded(
    model: ir.Model, neurons: Sequence[str], layers: Sequence[UnrolledLayer]
) -> None:
    """Record the neuron layers that are missing: folded, or merged with an equal one in tracing."""
    left = {layer.name for layer in layers}
    folded = [name for name in neurons if name not in left]
    if folded:
        model.metadata_props[FOLDED_KEY] = json.dumps(folded)
