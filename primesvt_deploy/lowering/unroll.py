"""Unroll each `ai.primesvt::LIF` node over its timesteps into standard ONNX operators.

With the equations of `lowering.neurons` (g absorbed where it is 1) and X[0..T-1] the T equal
parts of the input along the batch axis:

    H[0] = g X[0] + c + d v_reset       H[t] = d V[t-1] + g X[t] + c
    S[t] = Cast(H[t] >= v_threshold)    output = Concat(S[0], ..., S[T-1])

and, for the reset to zero, without `Where` (3.5 to 5.7 times the cost of an Add in ONNX Runtime):

    V[t] = H[t] - ThresholdedRelu(H[t], alpha)     alpha = the float32 next below v_threshold

since `H > alpha` and `H >= v_threshold` are the same in float32. Neurons of D > 1 levels fire
`Round(Clip(H / v_threshold, 0, D))`, and their outputs are scaled by `spike_value`. A static
input is not split: every X[t] is the same tensor. Spikes keep names: `<layer>.spikes.t<t>`, and
`<layer>.spikes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.neurons import LIF_DOMAIN, LIF_OP, ChargeFireReset

__all__ = ["NEURONS_KEY", "UnrolledLayer", "unroll"]

NEURONS_KEY = "primesvt.neurons"
"""Model metadata: JSON list of the neuron layers and their constants.

A layer's spikes are the tensors `<name>.spikes.t<t>`, and all of them `<name>.spikes`.
"""


@dataclass(frozen=True)
class UnrolledLayer:
    """One neuron layer of the artifact.

    Args:
        name: of the layer, as in the torch module.
        constants: what it computes.
        spikes: names of the spike tensors, one a timestep.
    """

    name: str
    constants: ChargeFireReset
    spikes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, **vars(self.constants)}


def unroll(model: ir.Model) -> tuple[UnrolledLayer, ...]:
    """Replace every LIF node of `model`, in place; the layers in the graph's order.

    Raises:
        ExportError: the graph has no LIF node: the neurons were lost in tracing.
    """
    nodes = [n for n in model.graph if n.domain == LIF_DOMAIN and n.op_type == LIF_OP]
    if not nodes:
        raise ExportError("the traced graph has no spiking neuron: is the model a SViT?")
    constants = _Constants(model.graph)
    layers = tuple(_replace(model.graph, node, constants) for node in nodes)
    model.opset_imports.pop(LIF_DOMAIN, None)
    model.metadata_props[NEURONS_KEY] = json.dumps([layer.to_dict() for layer in layers])
    return layers


class _Constants:
    """Scalar initializers, one for each value: neurons share theirs."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values: dict[float, ir.Value] = {}

    def scalar(self, value: float) -> ir.Value:
        value = float(np.float32(value))
        if value not in self._values:
            name = f"lif.constant.{value:.9g}"  # nine digits tell any two float32 apart
            tensor = ir.tensor(np.asarray(value, dtype=np.float32), name=name)
            self._values[value] = ir.Value(
                name=name,
                shape=ir.Shape([]),
                type=ir.TensorType(ir.DataType.FLOAT),
                const_value=tensor,
            )
            self._graph.register_initializer(self._values[value])
        return self._values[value]


class _Tape:
    """Appends nodes named after a layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.nodes: list[ir.Node] = []

    def add(
        self,
        op: str,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[str],
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        node = ir.node(
            op,
            list(inputs),
            attributes=attributes,
            num_outputs=len(outputs),
            name=f"{self.layer}.{name}",
        )
        for value, tail in zip(node.outputs, outputs, strict=True):
            value.name = f"{self.layer}.{tail}"
        self.nodes.append(node)
        return node.outputs

    def one(self, op: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self.add(op, name, inputs, [name], **attributes)[0]


def _replace(graph: ir.Graph, node: ir.Node, constants: _Constants) -> UnrolledLayer:
    lif, layer = _constants_of(node), _layer_name(node)
    currents = node.inputs[0]
    assert currents is not None
    tape = _Tape(layer)
    steps = lif.timesteps
    if lif.static_input or steps == 1:
        parts: Sequence[ir.Value] = [currents] * steps
    else:
        names = [f"current.t{t}" for t in range(steps)]
        parts = tape.add("Split", "unfold", [currents], names, axis=0, num_outputs=steps)
    spikes = _integrate(tape, parts, lif, constants)
    output = tape.add("Concat", "fold", spikes, ["spikes"], axis=0)[0] if steps > 1 else spikes[0]
    output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], tape.nodes, list(node.outputs), [output]
    )
    output.name = f"{layer}.spikes" if steps > 1 else f"{layer}.spikes.t0"
    return UnrolledLayer(layer, lif, tuple(str(value.name) for value in spikes))


def _integrate(
    tape: _Tape, parts: Sequence[ir.Value], lif: ChargeFireReset, constants: _Constants
) -> list[ir.Value]:
    gained: dict[int, ir.Value] = {}
    spikes: list[ir.Value] = []
    membrane: ir.Value | None = None
    for t, part in enumerate(parts):
        if id(part) not in gained:
            gained[id(part)] = (
                part
                if lif.gain == 1.0
                else tape.one("Mul", f"gain.t{t}", part, constants.scalar(lif.gain))
            )
        charge = gained[id(part)]
        if membrane is not None:
            decayed = tape.one("Mul", f"decay.t{t}", membrane, constants.scalar(lif.decay))
            charge = tape.one("Add", f"charge.t{t}", decayed, charge)
        shift = lif.first_offset if membrane is None else lif.offset
        if shift:
            charge = tape.one("Add", f"offset.t{t}", charge, constants.scalar(shift))
        fired, count = _fire(tape, t, charge, lif, constants)
        spikes.append(
            count
            if lif.spike_value == 1.0
            else tape.one("Mul", f"spikes.t{t}", count, constants.scalar(lif.spike_value))
        )
        if t + 1 < lif.timesteps:
            membrane = _reset(tape, t, charge, fired, count, lif, constants)
    return spikes


def _fire(
    tape: _Tape, t: int, charge: ir.Value, lif: ChargeFireReset, constants: _Constants
) -> tuple[ir.Value, ir.Value]:
    """What a step fires: as a condition (neurons of one level), and as a float count."""
    name = f"spikes.t{t}" if lif.spike_value == 1.0 else f"count.t{t}"
    if lif.levels == 1:
        fired = tape.one("GreaterOrEqual", f"fired.t{t}", charge, constants.scalar(lif.v_threshold))
        return fired, tape.one("Cast", name, fired, to=ir.DataType.FLOAT)
    if lif.v_threshold != 1.0:
        charge = tape.one("Div", f"unit.t{t}", charge, constants.scalar(lif.v_threshold))
    bounds = constants.scalar(0.0), constants.scalar(float(lif.levels))
    level = tape.one("Clip", f"clipped.t{t}", charge, *bounds)
    if lif.half_up:
        level = tape.one("Add", f"raised.t{t}", level, constants.scalar(0.5))
    count = tape.one("Floor" if lif.half_up else "Round", name, level)
    return count, count


def _reset(
    tape: _Tape,
    t: int,
    charge: ir.Value,
    fired: ir.Value,
    count: ir.Value,
    lif: ChargeFireReset,
    constants: _Constants,
) -> ir.Value:
    if lif.v_reset is None:
        spent = count
        if lif.v_threshold != 1.0:
            spent = tape.one("Mul", f"spent.t{t}", count, constants.scalar(lif.v_threshold))
    elif lif.v_reset == 0.0:
        below = float(np.nextafter(np.float32(lif.v_threshold), np.float32(-np.inf)))
        spent = tape.one("ThresholdedRelu", f"spent.t{t}", charge, alpha=below)
    else:
        rest = constants.scalar(lif.v_reset)
        return tape.one("Where", f"membrane.t{t}", fired, rest, charge)
    return tape.one("Sub", f"membrane.t{t}", charge, spent)


def _constants_of(node: ir.Node) -> ChargeFireReset:
    values = {name: attribute.value for name, attribute in node.attributes.items()}
    for flag in ("static_input", "half_up"):
        values[flag] = bool(values[flag])
    return ChargeFireReset(**{"v_reset": None, **values})


def _layer_name(node: ir.Node) -> str:
    """The torch module's name, from the scopes that torch.onnx records on each node."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [part.strip(" '[]") for part in scopes.split(",")]
    modules = [name for name in names[:-1] if name]
    return modules[-1].removesuffix(".neuron") if modules else str(node.name)
