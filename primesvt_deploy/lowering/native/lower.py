"""Lower a traced graph to a program of the native engine.

The graph is the one that ONNX artifacts come from, its neurons still `ai.primesvt::LIF`, and the
same analysis says which tensors hold spike counts and which layers run on integers. Spikes of all
timesteps of a neuron are the bits of one byte, so that a layer reads each input once for all of
them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.contract import PostconditionError, PreconditionError
from primesvt_deploy.lowering.integer.spike_counts import find_spike_counts
from primesvt_deploy.lowering.native.attention import lower_attention
from primesvt_deploy.lowering.native.pixels import lower_pixels
from primesvt_deploy.lowering.native.products import with_products
from primesvt_deploy.lowering.native.program import NativeProgram, ProgramBuilder
from primesvt_deploy.lowering.native.shapes import sample_shape
from primesvt_deploy.lowering.native.sinks import lower_neuron
from primesvt_deploy.lowering.native.stores import View, channels_last, new_values
from primesvt_deploy.lowering.native.tensors import lower_tensor
from primesvt_deploy.lowering.native.weighted import lower_weighted
from primesvt_deploy.lowering.pixel_conv import centred_pixels
from primesvt_deploy.lowering.traced_graph import (
    is_neuron,
    neuron_constants,
    neuron_layer_name,
    neuron_nodes,
    require_neurons,
)

__all__ = ["MOST_TIMESTEPS", "lower_to_native"]

MOST_TIMESTEPS = 32
"""T up to which the engine runs a network."""
_IMAGE_AXES = 4


def lower_to_native(
    model: ir.Model, *, pack: bool = False, observe_float_layers: bool = False
) -> NativeProgram:
    """Lower a traced graph, of any batch or of batch 1; it is left as it is.

    Args:
        model: the graph, its neurons not lowered yet.
        pack: store weights of 4 bits two in a byte.
        observe_float_layers: keep the outputs of float layers, for an observer: the same numbers,
            in more memory.

    Raises:
        PreconditionError: its neurons are lowered already, or have several numbers of timesteps.
        PostconditionError: the engine cannot run a layer; it is named with its operator.
    """
    require_neurons(model)
    steps = {neuron_constants(node).timesteps for node in neuron_nodes(model.graph)}
    if len(steps) > 1:
        raise PreconditionError(
            f"neurons have {sorted(steps)} timesteps: expected one number for all"
        )
    (timesteps,) = steps
    if timesteps > MOST_TIMESTEPS:
        raise PostconditionError(
            f"the native runtime runs up to {MOST_TIMESTEPS} timesteps, and the model has "
            f"{timesteps}; build with --runtime onnx"
        )
    builder = ProgramBuilder(
        timesteps=timesteps,
        counts=find_spike_counts(model.graph),
        observe_float_layers=observe_float_layers,
    )
    shape = sample_shape(model.graph.inputs[0])
    source = _input(builder, model.graph.inputs[0])
    for node in model.graph:
        if node in builder.done:
            continue
        if is_neuron(node):
            lower_neuron(builder, node)
        elif not (
            lower_attention(builder, node)
            or lower_pixels(builder, node)
            or lower_weighted(builder, node, pack_int4=pack)
        ):
            lower_tensor(builder, node)
    missing = [
        name
        for node in neuron_nodes(model.graph)
        if (name := neuron_layer_name(node)) not in builder.observed
    ]
    if missing:
        raise PostconditionError(f"the program has no neurons of layer {missing[0]}")
    logits = builder.as_values(builder.view(model.graph.outputs[0]), "logits")
    program = NativeProgram(
        operators=tuple(builder.operators),
        timesteps=timesteps,
        frames=0 if len(shape) == _IMAGE_AXES else shape[0],
        input_shape=(shape[-3], shape[-2], shape[-1]),
        input=source,
        logits=logits if logits.is_last() else builder.contiguous(logits, "logits"),
        integer_layers=tuple(builder.integer_layers),
        float_layers=dict(builder.float_layers),
        observed=dict(builder.observed),
    )
    return with_products(program)


def _input(builder: ProgramBuilder, value: ir.Value) -> View | None:
    """Hold the input: an image `[1, C, H, W]`, or frames `[T, 1, C, H, W]`, channels last.

    Pixels, uint8, are held by nobody: the layer that takes them reads the caller's.
    """
    if value.dtype == ir.DataType.UINT8:
        taken = [centred_pixels(node.inputs[0]) for node in value.graph or () if node.inputs]
        builder.done |= {node for found in taken if found is not None for node in found.nodes}
        return None
    shape = sample_shape(value)
    frames = shape[0]
    step = channels_last(shape[-3:])
    places = step[None] + (np.arange(frames) * step.size).reshape(-1, 1, 1, 1)
    view = View(new_values(frames, step.size), shape, places.reshape(shape))
    builder.put(value, view)
    return view
