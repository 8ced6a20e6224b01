"""Fold what silent branches inject: constants of channels, known before the graph ever runs.

Pruning can leave a branch whose neurons never fire. Where shortcuts add membrane currents, its last
convolution then adds its bias to the stream, the same at every pixel, timestep and image. Here
such constants are followed through a traced graph (neurons still `ai.primesvt::LIF`) up to the
sum that takes one in. The sum with zero vanishes. Any other constant goes into the bias of a
convolution before it, if nothing else reads what that changes, or stays as one `[1, C, 1, 1]`
term. The branch is then dead, and leaves with its weights.

Floats added in another order round differently, which can flip a spike. Integer artifacts must
flip none, so there no constant moves: each is added where the branch was, as the model does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch

from primesvt_deploy.lowering.integer.spike_counts import constant
from primesvt_deploy.lowering.lif import LIF_DOMAIN, integrate_and_fire
from primesvt_deploy.lowering.lif_operators import Constants
from primesvt_deploy.lowering.unroll import constants_of

__all__ = ["FOLDED_KEY", "fold_constants"]

FOLDED_KEY = "primesvt.folded"
"""Model metadata, where there are any: JSON list of the neuron layers that the graph has lost."""
_MARGIN = 1e-5
"""A neuron counts as silent if it were so with that much more of current and threshold: its
potential then is farther from the threshold than rounding reaches."""

_Channels = npt.NDArray[np.float32]
"""One value a channel; a single one holds for all of them."""
_Known = Mapping[ir.Value, _Channels]


def fold_constants(model: ir.Model, *, exact: bool = False) -> None:
    """Remove the silent branches of a traced graph, in place; without any it stays as it is.

    Args:
        model: from `lowering.trace`, its neurons not unrolled.
        exact: add nothing in another order than the model does (integer artifacts).
    """
    graph = model.graph
    known = _known_constants(graph, exact)
    sums = [node for node in graph if _stream(node, known) is not None]
    if not sums:
        return
    constants = Constants(graph)
    kept = [node for node in sums if not _settle(node, known, constants)]
    # The branches leave first: what only they read has no other reader from here on.
    passes.RemoveUnusedNodesPass()(model)
    for node in () if exact else kept:
        if node.graph is not None:
            _absorb(node, constants)
    passes.RemoveUnusedNodesPass()(model)


# Which tensors are constant


def _known_constants(graph: ir.Graph, exact: bool) -> dict[ir.Value, _Channels]:
    """The tensors that are the same everywhere but for their channel (axis 1)."""
    known: dict[ir.Value, _Channels] = {}
    for node in graph:
        if node.domain == LIF_DOMAIN:
            found = _fired(node, known)
        elif node.domain == "" and node.op_type == "Conv":
            found = _convolved(node, known, exact)
        else:
            rule = _RULES.get(node.op_type) if node.domain == "" else None
            found = rule(node, known) if rule else None
        if found is not None:
            known |= dict.fromkeys(node.outputs, found)
    return known


def _inputs(node: ir.Node, known: _Known) -> list[_Channels | None]:
    return [known.get(value) if value is not None else None for value in node.inputs]


def _is_zero(channels: _Channels | None) -> bool:
    return channels is not None and not channels.any()


_ZERO: _Channels = np.zeros(1, dtype=np.float32)


def _fired(node: ir.Node, known: _Known) -> _Channels | None:
    """What a neuron gives: zero, if a constant current makes it fire in no timestep."""
    currents = _inputs(node, known)[0]
    if currents is None:
        return None
    lif = replace(constants_of(node), static_input=True)
    # Until it fires a potential only grows with the current.
    most = currents + _MARGIN * (np.abs(currents) + abs(lif.v_threshold))
    fired = integrate_and_fire(torch.from_numpy(most.astype(np.float32))[None], lif)
    return None if fired.any() else _ZERO


def _convolved(node: ir.Node, known: _Known, exact: bool) -> _Channels | None:
    source = _inputs(node, known)[0]
    weights, bias = constant(node.inputs[1]), _bias(node)
    if weights is None or bias is None:
        return None
    if not weights.any() or _is_zero(source):
        return bias
    # What a product of real numbers rounds to depends on who adds it up.
    if source is None or exact or not _reads_no_padding(node):
        return None
    groups = int(node.attributes["group"].value) if "group" in node.attributes else 1
    each = np.repeat(source.reshape(groups, -1), len(weights) // groups, axis=0)
    kernels = weights.reshape(*each.shape, -1).astype(np.float64).sum(axis=2)
    summed: _Channels = ((kernels * each).sum(axis=1) + bias).astype(np.float32)
    return summed


def _bias(node: ir.Node) -> _Channels | None:
    """A convolution's bias, zeros if it has none; None: it is no constant."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return constant(node.inputs[2])
    weights = constant(node.inputs[1])
    return None if weights is None else np.zeros(len(weights), dtype=np.float32)


def _reads_no_padding(node: ir.Node) -> bool:
    given: dict[str, Any] = {name: a.value for name, a in node.attributes.items()}
    return not any(given.get("pads", ())) and given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _pooled(node: ir.Node, known: _Known) -> _Channels | None:
    """Maximum pooling pads with minus infinity, so a constant stays what it is."""
    return _inputs(node, known)[0] if len(node.outputs) == 1 else None


def _moved(node: ir.Node, known: _Known) -> _Channels | None:
    """Zeros stay zeros wherever they are moved, and so does their sum; channels may not."""
    return _ZERO if _is_zero(_inputs(node, known)[0]) else None


def _joined(node: ir.Node, known: _Known) -> _Channels | None:
    return _ZERO if all(_is_zero(part) for part in _inputs(node, known)) else None


def _multiplied(node: ir.Node, known: _Known) -> _Channels | None:
    return _ZERO if any(_is_zero(factor) for factor in _inputs(node, known)) else None


def _added(node: ir.Node, known: _Known) -> _Channels | None:
    a, b = _inputs(node, known)
    if a is None or b is None:
        return None
    if _is_zero(a) and _is_zero(b):
        return _ZERO
    shapes = {str(value.shape) for value in (*node.inputs, *node.outputs) if value is not None}
    return a + b if len(shapes) == 1 else None


_RULES: dict[str, Callable[[ir.Node, _Known], _Channels | None]] = {
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


# Sums that take a constant in


def _stream(node: ir.Node, known: _Known) -> ir.Value | None:
    """What a sum adds a constant to; None: the node is no such sum."""
    if node.domain != "" or node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    told = [value is not None and value in known for value in node.inputs]
    if sum(told) != 1:
        return None
    stream, output = node.inputs[told.index(False)], node.outputs[0]
    # The constant must not be what gives the sum its shape.
    if stream is None or stream.shape is None or stream.shape != output.shape:
        return None
    channels = known[_other(node, stream)]
    fits = len(stream.shape) > 1 and stream.shape[1] == channels.size
    return stream if constant(stream) is None and (fits or _is_zero(channels)) else None


def _other(node: ir.Node, operand: ir.Value) -> ir.Value:
    a, b = node.inputs
    other = b if a is operand else a
    assert other is not None
    return other


def _settle(node: ir.Node, known: _Known, constants: Constants) -> bool:
    """Remove a sum with zero; have any other read its constant as an initializer."""
    stream = _stream(node, known)
    assert stream is not None and stream.shape is not None
    branch = _other(node, stream)
    channels = known[branch]
    if _is_zero(channels):
        _remove(node, stream)
        return True
    shaped = channels.reshape(1, -1, *[1] * (len(stream.shape) - 2))
    value = constants.array(shaped, f"{node.outputs[0].name}.constant")
    node.replace_input_with(list(node.inputs).index(branch), value)
    return False


def _remove(node: ir.Node, stream: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(node.outputs[0], stream)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _absorb(node: ir.Node, constants: Constants) -> None:
    """Have a convolution, or a sum with another constant, add that of `node` as well."""
    stream, term = node.inputs if constant(node.inputs[1]) is not None else node.inputs[::-1]
    channels, found = constant(term), _absorber(stream)
    if stream is None or channels is None or found is None:
        return
    target, place = found
    old, before = target.inputs[place], constant(target.inputs[place])
    assert old is not None and before is not None
    after = before + channels.reshape(before.shape)
    if len(list(old.uses())) == 1:
        old.const_value = ir.tensor(after, name=old.name)
    else:  # other calls of the layer read it, too
        target.replace_input_with(place, constants.array(after, str(old.name)))
    _remove(node, stream)


def _absorber(value: ir.Value | None) -> tuple[ir.Node, int] | None:
    """A node that can add a constant to `value`, seen by no other reader, and its operand."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain != "" or value.is_graph_output():
        return None
    if len({use.node for use in value.uses()}) != 1:
        return None
    first, only = node.inputs[0], len(node.outputs) == 1
    if node.op_type == "Conv":
        return (node, 2) if len(node.inputs) > 2 and constant(node.inputs[2]) is not None else None
    if node.op_type == "Add":
        return _absorber_of_sum(node)
    # What is added to a channel may be added before it is pooled, or presented T times over.
    repeated = node.op_type == "Concat" and all(part is first for part in node.inputs)
    if (repeated and node.attributes["axis"].value == 0) or (node.op_type == "MaxPool" and only):
        return _absorber(first)
    return None


def _absorber_of_sum(node: ir.Node) -> tuple[ir.Node, int] | None:
    shape = node.outputs[0].shape
    a, b = node.inputs
    if shape is None or a is b:
        return None
    for place, array in enumerate(map(constant, node.inputs)):
        if array is not None and array.shape == (1, shape[1], *[1] * (len(shape) - 2)):
            return node, place
    operands = [operand for operand in (b, a) if operand is not None and operand.shape == shape]
    return next(filter(None, map(_absorber, operands)), None)
