"""Find the tensors of a traced graph that are the same everywhere but for their channel.

They come from neurons that never fire: what a convolution adds to silence is its bias, at every
pixel, timestep and image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from primesvt_deploy.lowering.lif import integrate_and_fire
from primesvt_deploy.lowering.traced_graph import initializer_array, is_neuron, neuron_constants

__all__ = ["Channels", "Constants", "find_constants", "is_zero"]

_MARGIN = 1e-5
"""A neuron counts as silent if it were so with that much more of current and threshold: its
potential then is farther from the threshold than rounding reaches."""

Channels = npt.NDArray[np.float32]
"""Constant of a tensor: one value a channel (axis 1); a single one holds for all of them."""
Constants = Mapping[ir.Value, Channels]


def find_constants(graph: ir.Graph, exact: bool) -> dict[ir.Value, Channels]:
    """Find the constant tensors of a traced graph, neurons as LIF nodes.

    Args:
        graph: as it was traced.
        exact: leave out constants that depend on the order in which a machine adds.
    """
    constants: dict[ir.Value, Channels] = {}
    for node in graph:
        if is_neuron(node):
            found = _fired(node, constants)
        elif node.domain == "" and node.op_type == "Conv":
            found = _convolved(node, constants, exact)
        else:
            rule = _RULES.get(node.op_type) if node.domain == "" else None
            found = rule(node, constants) if rule else None
        if found is not None:
            constants |= dict.fromkeys(node.outputs, found)
    return constants


def _inputs(node: ir.Node, constants: Constants) -> list[Channels | None]:
    return [constants.get(value) if value is not None else None for value in node.inputs]


def is_zero(channels: Channels | None) -> bool:
    """Whether a tensor is constant, and zero."""
    return channels is not None and not channels.any()


_ZERO: Channels = np.zeros(1, dtype=np.float32)


def _fired(node: ir.Node, constants: Constants) -> Channels | None:
    """Output of a neuron: zero, if a constant current makes it fire in no timestep."""
    currents = _inputs(node, constants)[0]
    if currents is None:
        return None
    lif = replace(neuron_constants(node), static_input=True)
    # Until it fires a potential only grows with the current.
    most = currents + _MARGIN * (np.abs(currents) + abs(lif.v_threshold))
    fired = integrate_and_fire(torch.from_numpy(most.astype(np.float32))[None], lif)
    return None if fired.any() else _ZERO


def _convolved(node: ir.Node, constants: Constants, exact: bool) -> Channels | None:
    source = _inputs(node, constants)[0]
    weights, bias = initializer_array(node.inputs[1]), _bias(node)
    if weights is None or bias is None:
        return None
    if not weights.any() or is_zero(source):
        return bias
    # What a product of real numbers rounds to depends on who adds it up.
    if source is None or exact or not _reads_no_padding(node):
        return None
    groups = int(node.attributes["group"].value) if "group" in node.attributes else 1
    each = np.repeat(source.reshape(groups, -1), len(weights) // groups, axis=0)
    kernels = weights.reshape(*each.shape, -1).astype(np.float64).sum(axis=2)
    summed: Channels = ((kernels * each).sum(axis=1) + bias).astype(np.float32)
    return summed


def _bias(node: ir.Node) -> Channels | None:
    """Bias of a convolution, zeros if it has none; None: it is no initializer."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return initializer_array(node.inputs[2])
    weights = initializer_array(node.inputs[1])
    return None if weights is None else np.zeros(len(weights), dtype=np.float32)


def _reads_no_padding(node: ir.Node) -> bool:
    given: dict[str, Any] = {name: a.value for name, a in node.attributes.items()}
    return not any(given.get("pads", ())) and given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _pooled(node: ir.Node, constants: Constants) -> Channels | None:
    """Output of maximum pooling, which pads with minus infinity: a constant stays what it is."""
    return _inputs(node, constants)[0] if len(node.outputs) == 1 else None


def _moved(node: ir.Node, constants: Constants) -> Channels | None:
    """Output of a node that moves or sums values: zeros stay zeros; channels may not stay."""
    return _ZERO if is_zero(_inputs(node, constants)[0]) else None


def _joined(node: ir.Node, constants: Constants) -> Channels | None:
    return _ZERO if all(is_zero(part) for part in _inputs(node, constants)) else None


def _multiplied(node: ir.Node, constants: Constants) -> Channels | None:
    return _ZERO if any(is_zero(factor) for factor in _inputs(node, constants)) else None


def _added(node: ir.Node, constants: Constants) -> Channels | None:
    a, b = _inputs(node, constants)
    if a is None or b is None:
        return None
    if is_zero(a) and is_zero(b):
        return _ZERO
    shapes = {str(value.shape) for value in (*node.inputs, *node.outputs) if value is not None}
    return a + b if len(shapes) == 1 else None


_RULES: dict[str, Callable[[ir.Node, Constants], Channels | None]] = {
    **dict.fromkeys(
        (
            *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"),
            *("Expand", "Identity", "Relu", "ReduceMean", "ReduceSum", "ReduceMax"),
        ),
        _moved,
    ),
    **dict.fromkeys(("Mul", "MatMul"), _multiplied),
    "Concat": _joined,
    "MaxPool": _pooled,
    "Add": _added,
}
