"""Lower a traced graph to integer arithmetic wherever tensors hold spike counts.

Spike counts are uint8 and exact. Weighted layers whose weights lie on a grid and whose input holds
spike counts become products of bytes (`integer.weighted_layers`), neurons give bytes
(`integer.neurons`), and what only moves values about moves bytes (`integer.operators`). Everything
else stays float32 and gets its input as it was traced.
"""

from __future__ import annotations

import json

import onnx_ir as ir

from primesvt_deploy.lowering.contract import PreconditionError
from primesvt_deploy.lowering.integer.int4_packing import UNPACK, unpack_function
from primesvt_deploy.lowering.integer.integer_graph import IntegerGraph
from primesvt_deploy.lowering.integer.matmul import CONTRIB
from primesvt_deploy.lowering.integer.neurons import lower_neuron
from primesvt_deploy.lowering.integer.operators import lower_operator
from primesvt_deploy.lowering.integer.weighted_layers import WeightedLayer, WeightedLayers
from primesvt_deploy.lowering.lif import LIF_DOMAIN
from primesvt_deploy.lowering.metadata import FLOAT_LAYERS_KEY, UnrolledLayer, record_neurons
from primesvt_deploy.lowering.neuron_pass import NeuronPass, NeuronPassResult
from primesvt_deploy.lowering.traced_graph import is_neuron, neuron_constants, neuron_nodes

__all__ = ["LowerToIntegers"]


class LowerToIntegers(NeuronPass, ir.passes.FunctionalPass):
    """Build the integer graph of a traced one, which is left as it is.

    Requires a traced graph that still has its LIF nodes, all of one number of timesteps; ensures
    that none is left, and that the metadata lists the neuron layers.

    Args:
        standard: standard ONNX operators only.
        pack: store weights of 4 bits two in a byte.
        per_timestep: compute layers with more activations than weights step by step.
    """

    def __init__(
        self, *, standard: bool = False, pack: bool = False, per_timestep: bool = True
    ) -> None:
        super().__init__()
        self.standard = standard
        self.pack = pack
        self.per_timestep = per_timestep

    def requires(self, model: ir.Model) -> None:
        """Check that the graph is as it was traced, with one number of timesteps.

        Raises:
            PreconditionError: it is not.
        """
        super().requires(model)
        found = _timesteps(model.graph)
        if len(found) > 1:
            raise PreconditionError(
                f"neurons have {sorted(found)} timesteps: expected one number for all"
            )

    def call(self, model: ir.Model) -> NeuronPassResult:
        """Lower a traced graph."""
        (timesteps,) = _timesteps(model.graph)
        target = IntegerGraph(model.graph, timesteps)
        lowering = WeightedLayers(
            target, standard=self.standard, pack=self.pack, per_timestep=self.per_timestep
        )
        layers: list[UnrolledLayer] = []
        weighted: list[WeightedLayer] = []
        for node in model.graph:
            if is_neuron(node):
                layers.append(lower_neuron(target, node))
            elif (layer := lowering.lower(node)) is not None:
                weighted.append(layer)
            else:
                lower_operator(target, node)
        lowered = self._finished(target, model)
        record_neurons(lowered, layers)
        inexact = [layer.name for layer in weighted if not layer.exact]
        lowered.metadata_props[FLOAT_LAYERS_KEY] = json.dumps(inexact)
        return NeuronPassResult(
            lowered,
            modified=True,
            layers=tuple(layers),
            integer_layers=tuple(layer.name for layer in weighted if not layer.float_reason),
            float_layers={v.name: v.float_reason for v in weighted if v.float_reason},
            weight_bits={v.name: v.weight_bits for v in weighted if v.weight_bits is not None},
        )

    def _finished(self, target: IntegerGraph, traced: ir.Model) -> ir.Model:
        """Complete the graph: its outputs, operator sets and functions."""
        graph = target.finish(traced.graph.outputs, {} if self.standard else {CONTRIB: 1})
        graph.opset_imports.pop(LIF_DOMAIN, None)
        model = ir.Model(graph, ir_version=traced.ir_version)
        if any(node.op_type == UNPACK for node in graph):
            function = unpack_function(graph.opset_imports[""])
            model.functions[function.identifier()] = function
            graph.opset_imports[LIF_DOMAIN] = 1
        return model


def _timesteps(graph: ir.Graph) -> set[int]:
    return {neuron_constants(node).timesteps for node in neuron_nodes(graph)}
