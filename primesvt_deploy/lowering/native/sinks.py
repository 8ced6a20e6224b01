"""Decide where a layer's currents go: what follows it in the graph is done position by position.

A neuron that alone reads a layer fires as its currents come, behind a maximum pool if there is
one, so that currents are never stored. A sum with a stream that is there already is added to as
they come, too. What several nodes read is stored as real values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.lif import ChargeFireReset
from primesvt_deploy.lowering.native.program import ProgramBuilder, unsupported
from primesvt_deploy.lowering.native.records import (
    NeuronOp,
    NeuronRef,
    SinkKind,
    SinkRef,
    WindowRef,
)
from primesvt_deploy.lowering.native.shapes import sample_shape
from primesvt_deploy.lowering.native.stores import (
    ValueStore,
    View,
    channels_last,
    new_spikes,
    new_values,
)
from primesvt_deploy.lowering.traced_graph import (
    is_neuron,
    layer_name,
    neuron_constants,
    neuron_layer_name,
)

__all__ = ["Sink", "lower_neuron", "neuron_ref", "pool_window", "sink_of"]


@dataclass(frozen=True, kw_only=True)
class Sink:
    """Destination of a layer's currents.

    Args:
        ref: of the operator.
        name: of the layer that an observer sees.
        channels: of the output.
        observed: whether an observer gets it.
    """

    ref: SinkRef
    name: str
    channels: int
    observed: bool


def sink_of(builder: ProgramBuilder, node: ir.Node, *, steps: int, width: int, exact: bool) -> Sink:
    """The sink of a weighted layer; the nodes that it takes in are done.

    Args:
        builder: of the program.
        node: the layer; its output is `[steps, C, H, W]`, or `[steps, ..., C]`.
        steps: T, or 1 where the input does not change.
        width: of the output's positions, as the operator numbers them.
        exact: its sums do not depend on the order of adding.
    """
    output = node.outputs[0]
    shape = sample_shape(output)
    kept_apart = builder.observe_float_layers and not exact
    pool = None if kept_apart else _only_user(output, "MaxPool")
    window = None if pool is None else pool_window(pool)
    if pool is not None and window is not None:
        builder.done.add(pool)
        output, shape = pool.outputs[0], sample_shape(pool.outputs[0])
    channels = shape[1] if len(shape) == 4 else shape[-1]
    common = SinkRef(
        kind=SinkKind.VALUES,
        steps=steps,
        width=width,
        pooled=int(window is not None),
        pool=window or WindowRef(),
    )
    neuron = None if kept_apart else _only_user(output, None)
    if neuron is not None and is_neuron(neuron):
        lif = neuron_constants(neuron)
        if steps == (1 if lif.static_input else lif.timesteps):
            return _into_neuron(builder, neuron, shape, channels, common)
    if not kept_apart and (addition := _addition(builder, output, shape, steps)) is not None:
        return _into_sum(builder, addition, output, shape, channels, common)
    view = _new_view(steps, shape)
    builder.put(output, view)
    if kept_apart:
        builder.observed[layer_name(node)] = view
    assert isinstance(view.store, ValueStore)
    ref = replace(common, values=view.store.ref)
    return Sink(ref=ref, name=layer_name(node), channels=channels, observed=kept_apart)


def _into_neuron(
    builder: ProgramBuilder,
    node: ir.Node,
    shape: tuple[int, ...],
    channels: int,
    common: SinkRef,
) -> Sink:
    lif = neuron_constants(node)
    places = channels_last(shape[1:])
    store = new_spikes(lif.timesteps, places.size, levels=lif.levels, unit=lif.spike_value)
    view = View(store, (lif.timesteps, *shape[1:]), places)
    builder.put(node.outputs[0], view)
    builder.observed[neuron_layer_name(node)] = view
    builder.done.add(node)
    ref = replace(common, kind=SinkKind.NEURON, neuron=neuron_ref(lif), spikes=store.ref)
    return Sink(ref=ref, name=neuron_layer_name(node), channels=channels, observed=True)


def _into_sum(
    builder: ProgramBuilder,
    addition: ir.Node,
    output: ir.Value,
    shape: tuple[int, ...],
    channels: int,
    common: SinkRef,
) -> Sink:
    a, b = addition.inputs
    other = builder.view(b if a is output else a)
    view = _new_view(shape[0], shape)
    assert isinstance(view.store, ValueStore) and other.values is not None
    builder.put(addition.outputs[0], view)
    builder.done.add(addition)
    ref = replace(common, kind=SinkKind.ADD, values=view.store.ref, other=other.values.ref)
    return Sink(ref=ref, name=layer_name(addition), channels=channels, observed=False)


def _addition(
    builder: ProgramBuilder, output: ir.Value, shape: tuple[int, ...], steps: int
) -> ir.Node | None:
    """The sum, of a stored stream, that alone reads a tensor; None: there is none."""
    node = _only_user(output, "Add")
    if node is None or steps != shape[0]:
        return None
    a, b = node.inputs
    other = b if a is output else a
    if other is output or not builder.holds(other):
        return None
    view = builder.view(other)
    fits = view.values is not None and view.shape == shape and view.is_last()
    return node if fits else None


def _new_view(steps: int, shape: tuple[int, ...]) -> View:
    step = channels_last(shape[1:])
    shift = np.arange(steps).reshape(-1, *[1] * step.ndim) * step.size
    return View(new_values(steps, step.size), (steps, *shape[1:]), step[None] + shift)


def _only_user(value: ir.Value, operator: str | None) -> ir.Node | None:
    """The one node that uses a tensor, if it is of that operator (None: of any)."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if operator is None or (node.domain, node.op_type) == ("", operator) else None


def pool_window(node: ir.Node) -> WindowRef | None:
    """Geometry of a MaxPool node; None: the engine cannot pool so."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    source, target = sample_shape(node.inputs[0]), sample_shape(node.outputs[0])
    plain = not given.get("ceil_mode", 0) and given.get("auto_pad", "NOTSET") == "NOTSET"
    if len(source) != 4 or not plain or set(given.get("dilations", (1, 1))) != {1}:
        return None
    if len(node.outputs) != 1:
        return None
    kernel, strides = given["kernel_shape"], given.get("strides", (1, 1))
    pads = given.get("pads", (0, 0, 0, 0))
    if pads[0] >= kernel[0] or pads[1] >= kernel[1]:
        return None
    return WindowRef(
        channels=source[1],
        height=source[2],
        width=source[3],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_y=strides[0],
        stride_x=strides[1],
        pad_top=pads[0],
        pad_left=pads[1],
        dilation_y=1,
        dilation_x=1,
        out_height=target[2],
        out_width=target[3],
    )


def neuron_ref(lif: ChargeFireReset) -> NeuronRef:
    """Constants of a neuron, as the engine has them."""
    return NeuronRef(
        decay=lif.decay,
        gain=lif.gain,
        first_shift=lif.first_offset,
        shift=lif.offset,
        threshold=lif.v_threshold,
        v_reset=lif.v_reset or 0.0,
        hard_reset=int(lif.v_reset is not None and lif.levels == 1),
        levels=lif.levels,
        half_up=int(lif.half_up),
    )


def lower_neuron(builder: ProgramBuilder, node: ir.Node) -> None:
    """Add neurons that read a stored tensor."""
    lif, name = neuron_constants(node), neuron_layer_name(node)
    view = builder.as_values(builder.view(node.inputs[0]), name)
    if not view.is_whole():
        view = builder.contiguous(view, name)
    steps = 1 if view.is_static else view.shape[0]
    if steps not in (1, lif.timesteps):
        raise unsupported(name, f"a neuron of {lif.timesteps} steps on {steps} currents")
    assert view.values is not None
    places = view.step_places()
    store = new_spikes(lif.timesteps, places.size, levels=lif.levels, unit=lif.spike_value)
    out = View(store, (lif.timesteps, *view.shape[1:]), places)
    builder.put(node.outputs[0], out)
    builder.observed[name] = out
    channels = view.shape[1] if places.ndim == 3 else places.shape[-1]
    builder.append(
        NeuronOp(
            name=builder.name(name),
            # In another order than channels last the neurons have no positions.
            observed=channels if out.is_last() else places.size,
            input=view.values.ref,
            neuron=neuron_ref(lif),
            output=store.ref,
        )
    )
