"""The integer graph while it is built: its tensors by traced tensor, its names, its copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.integer.spike_counts import find_spike_counts
from primesvt_deploy.lowering.integer.tensor_layout import AS_TRACED, Layout, TensorLayouts
from primesvt_deploy.lowering.lif_operators import Currents

__all__ = ["IntegerGraph"]


class IntegerGraph:
    """A graph that computes what a traced one does, which is left as it is.

    Args:
        traced: the graph to lower.
        timesteps: T.

    Attributes:
        timesteps: T.
        graph: the one being built.
        initializers: of it.
        layouts: its tensors, by traced tensor.
        counts: the traced tensors that hold spike counts.
        currents: sign-flipped or decay-prescaled currents that a layer has prepared for the one
            neuron behind it, by traced tensor.
    """

    def __init__(self, traced: ir.Graph, timesteps: int) -> None:
        inputs = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in traced.inputs]
        opsets = traced.opset_imports.copy()
        self.timesteps = timesteps
        self.graph = ir.Graph(inputs, [], nodes=[], opset_imports=opsets, name=traced.name)
        self.initializers = SharedInitializers(self.graph)
        self.counts = find_spike_counts(traced)
        self.layouts = TensorLayouts(self.graph, self.initializers, self.counts, timesteps)
        self.currents: dict[ir.Value, Currents] = {}
        self._calls: dict[str, int] = {}
        self._copies: dict[ir.Value, ir.Value] = {}
        for old, new in zip(traced.inputs, inputs, strict=True):
            self.layouts.put(old, AS_TRACED, (new,))

    def tape(self, layer: str) -> LayerTape:
        """A tape that appends nodes named after a layer."""
        return LayerTape(layer, self.graph)

    def call_tape(self, layer: str) -> LayerTape:
        """A tape with a name of its own for each call of a layer that is called several times."""
        calls = self._calls[layer] = self._calls.get(layer, 0) + 1
        return self.tape(layer if calls == 1 else f"{layer}.call{calls}")

    def as_traced(self, value: ir.Value | None) -> ir.Value | None:
        """A tensor or initializer of the traced graph in the layout it has there."""
        if value is None:
            return None
        if value.const_value is None:
            return self.layouts.one(value)
        if value not in self._copies:
            copy = ir.Value(
                name=value.name, shape=value.shape, type=value.type, const_value=value.const_value
            )
            self.graph.register_initializer(copy)
            self._copies[value] = copy
        return self._copies[value]

    def copy_node(
        self,
        node: ir.Node,
        inputs: Sequence[ir.Value | None] | None = None,
        layout: Layout = AS_TRACED,
    ) -> None:
        """Append a traced node.

        Args:
            node: of the traced graph.
            inputs: of the copy; None: those of the node, as they were traced.
            layout: of the copy's outputs.
        """
        if inputs is None:
            inputs = [self.as_traced(value) for value in node.inputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=node.name,
            metadata_props=dict(node.metadata_props),
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = old.name
            self.layouts.put(old, layout, (new,))
        self.graph.append(copy)

    def finish(self, outputs: Sequence[ir.Value], opsets: Mapping[str, int]) -> ir.Graph:
        """Give the graph its outputs and the operator sets that it needs besides those traced."""
        for old in outputs:
            output = self.layouts.one(old)
            output.name, output.shape, output.type = old.name, old.shape, old.type
            self.graph.outputs.append(output)
        self.graph.opset_imports.update(opsets)
        return self.graph
