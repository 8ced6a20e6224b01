"""Unroll each `ai.primesvt::LIF` node over its timesteps into standard ONNX operators.

The input's T equal parts along the batch axis are the currents of `lowering.lif_operators`, and
the spikes are put together again: `output = Concat(S[0], ..., S[T-1])`. A static input is not
split: every X[t] is the same tensor. Spikes keep names: `<layer>.spikes.t<t>`, and
`<layer>.spikes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.lif import LIF_DOMAIN
from primesvt_deploy.lowering.lif_operators import Currents, can_flip_sign, fire
from primesvt_deploy.lowering.metadata import UnrolledLayer, record_neurons
from primesvt_deploy.lowering.neuron_pass import NeuronPass, NeuronPassResult
from primesvt_deploy.lowering.traced_graph import (
    initializer_array,
    neuron_constants,
    neuron_layer_name,
    neuron_nodes,
)

__all__ = ["Unroll"]


class Unroll(NeuronPass, ir.passes.InPlacePass):
    """Replace every LIF node by standard float32 operators, in place.

    Requires a traced graph that still has its LIF nodes; ensures that none is left, and that the
    metadata lists the neuron layers.
    """

    def call(self, model: ir.Model) -> NeuronPassResult:
        """Unroll the neurons of a traced graph."""
        initializers = SharedInitializers(model.graph)
        layers = tuple(
            _unroll(model.graph, node, initializers) for node in neuron_nodes(model.graph)
        )
        model.opset_imports.pop(LIF_DOMAIN, None)
        record_neurons(model, layers)
        return NeuronPassResult(model, modified=True, layers=layers)


def _unroll(graph: ir.Graph, node: ir.Node, initializers: SharedInitializers) -> UnrolledLayer:
    lif, layer = neuron_constants(node), neuron_layer_name(node)
    currents = node.inputs[0]
    assert currents is not None
    flipped = can_flip_sign(lif) and _flip_sign(currents)
    tape = LayerTape(layer)
    steps = lif.timesteps
    if lif.static_input or steps == 1:
        parts: Sequence[ir.Value] = [currents] * steps
    else:
        parts = tape.split("unfold", currents, [f"current.t{t}" for t in range(steps)])
    spikes = fire(tape, Currents(parts, sign_flipped=flipped), lif, initializers)
    output = tape.node("Concat", "fold", *spikes, axis=0) if steps > 1 else spikes[0]
    output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], tape.nodes, list(node.outputs), [output]
    )
    output.name = f"{layer}.spikes" if steps > 1 else f"{layer}.spikes.t0"
    return UnrolledLayer(layer, lif, tuple(str(value.name) for value in spikes))


def _flip_sign(currents: ir.Value) -> bool:
    """Have the convolution that computes `currents`, for this neuron alone, compute -currents."""
    node = currents.producer()
    if node is None or node.op_type != "Conv" or len(list(currents.uses())) != 1:
        return False
    parameters = list(node.inputs[1:])
    arrays = [initializer_array(value) for value in parameters]
    if any(array is None for array in arrays) or any(
        value is not None and len(list(value.uses())) != 1 for value in parameters
    ):
        return False
    for value, array in zip(parameters, arrays, strict=True):
        assert value is not None and array is not None
        value.const_value = ir.tensor(-array, name=value.name)
    return True
