"""Lower LIF nodes to operators on single timesteps, with bytes out wherever spike counts fit."""

from __future__ import annotations

import onnx_ir as ir

from primesvt_deploy.lowering.integer.integer_graph import IntegerGraph
from primesvt_deploy.lowering.integer.tensor_layout import Layout
from primesvt_deploy.lowering.lif import ChargeFireReset
from primesvt_deploy.lowering.lif_operators import Currents, can_flip_sign, fire
from primesvt_deploy.lowering.metadata import UnrolledLayer
from primesvt_deploy.lowering.traced_graph import is_neuron, neuron_constants, neuron_layer_name

__all__ = ["lower_neuron", "only_neuron"]


def lower_neuron(target: IntegerGraph, node: ir.Node) -> UnrolledLayer:
    """Append the timesteps of a LIF node."""
    lif, layer = neuron_constants(node), neuron_layer_name(node)
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    layouts = target.layouts
    last = layouts.prefers_last(source)
    currents = target.currents.get(source)
    if currents is None:
        once = lif.static_input or lif.timesteps == 1
        parts = layouts.get(source, Layout(channels_last=last, per_timestep=not once))
        currents = Currents(parts * lif.timesteps if once else parts)
    uint8 = target.counts[output].fit_a_byte
    dtype = ir.DataType.UINT8 if uint8 else ir.DataType.FLOAT
    spikes = tuple(fire(target.tape(layer), currents, lif, target.initializers, dtype=dtype))
    layout = Layout(uint8=uint8, channels_last=last, per_timestep=lif.timesteps > 1)
    layouts.put(output, layout, spikes, name=f"{layer}.spikes")
    names = tuple(str(value.name) for value in spikes)
    return UnrolledLayer(layer, lif, names, "NHWC" if last else "NCHW")


def only_neuron(value: ir.Value) -> ChargeFireReset | None:
    """Find the neuron that alone uses a traced tensor, if it takes its currents sign-flipped."""
    uses = list(value.uses())
    if len(uses) != 1 or not is_neuron(uses[0].node):
        return None
    lif = neuron_constants(uses[0].node)
    return lif if can_flip_sign(lif) and not lif.static_input else None
