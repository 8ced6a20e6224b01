"""Lower operators without weights or state, on whichever layout their inputs come in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.integer.integer_graph import IntegerGraph
from primesvt_deploy.lowering.integer.tensor_layout import Layout
from primesvt_deploy.lowering.traced_graph import initializer_array

__all__ = ["lower_operator"]

_ELEMENTWISE = ("Add", "Mul", "Sub", "Div")
_MOVING = ("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "MaxPool")


def lower_operator(target: IntegerGraph, node: ir.Node) -> None:
    """Append an operator in the best layout that it can take, or else as it was traced."""
    if node.domain == "":
        if node.op_type in _ELEMENTWISE and _lower_elementwise(target, node):
            return
        if node.op_type in _MOVING and _lower_moving(target, node):
            return
        if node.op_type == "ReduceMean" and _lower_mean(target, node):
            return
    target.copy_node(node)


def _lower_elementwise(target: IntegerGraph, node: ir.Node) -> bool:
    """Append arithmetic of two tensors of one shape, or of one and a scalar, in either layout."""
    a, b = node.inputs
    if a is None or b is None:
        return False
    tensors = [value for value in (a, b) if initializer_array(value) is None]
    scalars = [array for array in map(initializer_array, (a, b)) if array is not None]
    if any(array.size != 1 for array in scalars) or not tensors:
        return False
    if len(tensors) == 2 and a.shape != b.shape:
        return False
    layout = Layout(channels_last=all(target.layouts.prefers_last(value) for value in tensors))
    inputs = [
        target.layouts.one(value, layout)
        if initializer_array(value) is None
        else target.as_traced(value)
        for value in (a, b)
    ]
    target.copy_node(node, inputs, layout)
    return True


def _lower_moving(target: IntegerGraph, node: ir.Node) -> bool:
    """Append on bytes what moves spike counts, or picks among them."""
    source = node.inputs[0]
    assert source is not None
    counts = target.counts.get(source)
    if counts is None or not counts.fit_a_byte or not target.layouts.has_bytes(source):
        return False
    layout = Layout(uint8=True)
    inputs = [target.layouts.one(source, layout), *map(target.as_traced, node.inputs[1:])]
    target.copy_node(node, inputs, layout)
    return True


def _lower_mean(target: IntegerGraph, node: ir.Node) -> bool:
    """Append a mean over height and width, of a tensor with channels last."""
    source = node.inputs[0]
    axes = initializer_array(node.inputs[1]) if len(node.inputs) > 1 else None
    assert source is not None
    keeps = "keepdims" not in node.attributes or bool(node.attributes["keepdims"].value)
    if axes is None or sorted(axes.tolist()) != [2, 3] or keeps:
        return False
    if not target.layouts.prefers_last(source):
        return False
    new_axes = target.initializers.array(np.asarray([1, 2], dtype=np.int64), "axes.height.width")
    target.copy_node(node, [target.layouts.one(source, Layout(channels_last=True)), new_axes])
    return True
