"""Unroll each `ai.primesvt::LIF` node over its timesteps into standard ONNX operators.

The input's T equal parts along the batch axis are the currents of `lowering.steps`, and the
spikes are put together again: `output = Concat(S[0], ..., S[T-1])`. A static input is not split:
every X[t] is the same tensor. Spikes keep names: `<layer>.spikes.t<t>`, and `<layer>.spikes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.integer.spike_counts import constant
from primesvt_deploy.lowering.lif import LIF_DOMAIN, LIF_OP, ChargeFireReset
from primesvt_deploy.lowering.lif_operators import Constants, Currents, Tape, can_be_negated, fire

__all__ = [
    "FLOAT_LAYERS_KEY",
    "NEURONS_KEY",
    "UnrolledLayer",
    "constants_of",
    "layer_name",
    "neuron_nodes",
    "record",
    "unroll",
]

NEURONS_KEY = "primesvt.neurons"
"""Model metadata: JSON list of the neurons there are, each with its constants and the `names` of
the layers that have them.

A layer's spikes are the tensors `<name>.spikes.t<t>`, and all of them `<name>.spikes`; of type
uint8 they are counts. Their `layout` is that of the torch module (`NCHW`, any rank) or `NHWC`.
"""
FLOAT_LAYERS_KEY = "primesvt.real"
"""Model metadata of an integer artifact: JSON list of the layers whose weights meet real numbers,
so that their outputs are rounded as the machine adds."""


@dataclass(frozen=True)
class UnrolledLayer:
    """One neuron layer of the artifact.

    Args:
        name: of the layer, as in the torch module.
        constants: what it computes.
        spikes: names of the spike tensors, one a timestep.
        layout: `NCHW`: axes as in torch; `NHWC`: channels last.
    """

    name: str
    constants: ChargeFireReset
    spikes: tuple[str, ...]
    layout: str = "NCHW"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        layout = {} if self.layout == "NCHW" else {"layout": self.layout}
        return {"name": self.name, **layout, **vars(self.constants)}


def unroll(model: ir.Model) -> tuple[UnrolledLayer, ...]:
    """Replace every LIF node of `model`, in place; the layers in the graph's order.

    Raises:
        ExportError: the graph has no LIF node: the neurons were lost in tracing.
    """
    nodes = neuron_nodes(model.graph)
    constants = Constants(model.graph)
    layers = tuple(_replace(model.graph, node, constants) for node in nodes)
    record(model, layers)
    return layers


def record(model: ir.Model, layers: Sequence[UnrolledLayer]) -> None:
    """Note the layers in the model's metadata, once no LIF node is left."""
    model.opset_imports.pop(LIF_DOMAIN, None)
    alike: dict[tuple[ChargeFireReset, str], list[str]] = {}
    for layer in layers:
        alike.setdefault((layer.constants, layer.layout), []).append(layer.name)
    entries = [
        {"names": names, "layout": layout, **vars(constants)}
        for (constants, layout), names in alike.items()
    ]
    model.metadata_props[NEURONS_KEY] = json.dumps(entries, separators=(",", ":"))


def neuron_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The LIF nodes of a traced graph.

    Raises:
        ExportError: there are none.
    """
    nodes = [n for n in graph if n.domain == LIF_DOMAIN and n.op_type == LIF_OP]
    if not nodes:
        raise ExportError("the traced graph has no spiking neuron: is the model a SViT?")
    return nodes


def _replace(graph: ir.Graph, node: ir.Node, constants: Constants) -> UnrolledLayer:
    lif, layer = constants_of(node), layer_name(node).removesuffix(".neuron")
    currents = node.inputs[0]
    assert currents is not None
    negated = can_be_negated(lif) and _negate(currents)
    tape = Tape(layer)
    steps = lif.timesteps
    if lif.static_input or steps == 1:
        parts: Sequence[ir.Value] = [currents] * steps
    else:
        names = [f"current.t{t}" for t in range(steps)]
        parts = tape.add("Split", "unfold", [currents], names, axis=0, num_outputs=steps)
    spikes = fire(tape, Currents(parts, negated=negated), lif, constants)
    output = tape.add("Concat", "fold", spikes, ["spikes"], axis=0)[0] if steps > 1 else spikes[0]
    output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], tape.nodes, list(node.outputs), [output]
    )
    output.name = f"{layer}.spikes" if steps > 1 else f"{layer}.spikes.t0"
    return UnrolledLayer(layer, lif, tuple(str(value.name) for value in spikes))


def _negate(currents: ir.Value) -> bool:
    """Have the convolution that makes `currents`, for this neuron alone, make the negative."""
    node = currents.producer()
    if node is None or node.op_type != "Conv" or len(list(currents.uses())) != 1:
        return False
    parameters = list(node.inputs[1:])
    arrays = [constant(value) for value in parameters]
    if any(a is None for a in arrays) or any(
        value is not None and len(list(value.uses())) != 1 for value in parameters
    ):
        return False
    for value, array in zip(parameters, arrays, strict=True):
        assert value is not None and array is not None
        value.const_value = ir.tensor(-array, name=value.name)
    return True


def constants_of(node: ir.Node) -> ChargeFireReset:
    """What a LIF node computes."""
    values = {name: attribute.value for name, attribute in node.attributes.items()}
    for flag in ("static_input", "half_up"):
        values[flag] = bool(values[flag])
    return ChargeFireReset(**{"v_reset": None, **values})


def layer_name(node: ir.Node) -> str:
    """The torch module's name, from the scopes that torch.onnx records on each node."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [part.strip(" '[]") for part in scopes.split(",")]
    modules = [name for name in names[:-1] if name]
    return modules[-1] if modules else str(node.name)
