"""Contract of the passes that lower a traced graph's neurons: `Unroll` and `LowerToIntegers`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from primesvt_deploy.lowering.contract import PostconditionError
from primesvt_deploy.lowering.metadata import NEURONS_KEY, UnrolledLayer
from primesvt_deploy.lowering.traced_graph import neuron_nodes, require_neurons

__all__ = ["NeuronPass", "NeuronPassResult"]


@dataclass
class NeuronPassResult(ir.passes.PassResult):
    """A graph without LIF nodes, and how its layers were lowered.

    Args:
        layers: neuron layers, in the graph's order.
        integer_layers: names of the weighted layers that run on integers.
        float_layers: of an integer artifact: weighted layers that run on float32, and why.
        weight_bits: bits of a stored weight, by layer, where they are fewer than 32.
    """

    layers: tuple[UnrolledLayer, ...]
    integer_layers: tuple[str, ...] = ()
    float_layers: Mapping[str, str] = field(default_factory=dict)
    weight_bits: Mapping[str, int] = field(default_factory=dict)


class NeuronPass(ir.passes.PassBase):
    """A pass that replaces every LIF node.

    Requires a traced graph that still has its LIF nodes; ensures that none is left, and that the
    metadata lists the neuron layers.
    """

    @abc.abstractmethod
    def call(self, model: ir.Model) -> NeuronPassResult:
        """Lower the neurons of a traced graph."""

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> NeuronPassResult:
        """Lower the neurons of a traced graph, its conditions checked before and after.

        Raises:
            PreconditionError: the graph is not one that this pass can lower.
            PostconditionError: a neuron is left, or not listed.
        """
        result = super().__call__(model_or_result)
        assert isinstance(result, NeuronPassResult)
        return result

    def requires(self, model: ir.Model) -> None:
        """Check that the graph is as it was traced."""
        require_neurons(model)

    def ensures(self, model: ir.Model) -> None:
        """Check that no LIF node is left, and that the neurons are listed."""
        left = neuron_nodes(model.graph)
        if left:
            raise PostconditionError(f"neuron {left[0].name} was not lowered")
        if NEURONS_KEY not in model.metadata_props:
            raise PostconditionError(f"the graph's metadata has no {NEURONS_KEY}")
