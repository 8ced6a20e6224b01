"""Find the tensors of a traced graph that hold spike counts, from the graph's structure alone.

Neurons fire counts: spikes are 0 or 1, integer neurons fire up to D. Residuals of spikes add
counts up, pooling picks among them, attention multiplies them. What real numbers reach, such as
an image or a residual of membrane currents, holds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from primesvt_deploy.lowering.traced_graph import initializer_array, is_neuron

__all__ = ["UINT8_MAX", "SpikeCounts", "find_spike_counts"]

UINT8_MAX = 255


@dataclass(frozen=True)
class SpikeCounts:
    """A tensor's values are `unit * n` with n whole, `0 <= n <= largest`."""

    largest: int
    unit: float

    @property
    def fit_a_byte(self) -> bool:
        """Whether uint8 holds every n."""
        return self.largest <= UINT8_MAX


def find_spike_counts(graph: ir.Graph) -> dict[ir.Value, SpikeCounts]:
    """Find the tensors of a traced graph (neurons as LIF nodes) that hold spike counts."""
    found: dict[ir.Value, SpikeCounts] = {}
    for node in graph:
        if is_neuron(node):
            levels, value = node.attributes["levels"].value, node.attributes["spike_value"].value
            found[node.outputs[0]] = SpikeCounts(int(levels), float(value))
            continue
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        outcome = rule(node, found) if rule else None
        if outcome is not None:
            found |= dict.fromkeys(node.outputs, outcome)
    return found


_Found = Mapping[ir.Value, SpikeCounts]


def _inputs(node: ir.Node, found: _Found) -> list[SpikeCounts | None]:
    return [found.get(value) if value is not None else None for value in node.inputs]


def _moved(node: ir.Node, found: _Found) -> SpikeCounts | None:
    """Output of a node that moves values or picks among them: what the first input holds."""
    return _inputs(node, found)[0]


def _joined(node: ir.Node, found: _Found) -> SpikeCounts | None:
    parts = _inputs(node, found)
    first = parts[0]
    if first is None or any(part is None or part.unit != first.unit for part in parts):
        return None
    return replace(first, largest=max(part.largest for part in parts if part))


def _added(node: ir.Node, found: _Found) -> SpikeCounts | None:
    a, b = _inputs(node, found)
    if a is None or b is None or a.unit != b.unit:
        return None
    return replace(a, largest=a.largest + b.largest)


def _multiplied(node: ir.Node, found: _Found) -> SpikeCounts | None:
    a, b = _inputs(node, found)
    if a is not None and b is not None:
        return SpikeCounts(a.largest * b.largest, a.unit * b.unit)
    counts, other = (a, node.inputs[1]) if a is not None else (b, node.inputs[0])
    factor = _positive_scalar(other)
    if counts is None or factor is None:
        return None
    return replace(counts, unit=counts.unit * factor)


def _divided(node: ir.Node, found: _Found) -> SpikeCounts | None:
    counts, factor = _inputs(node, found)[0], _positive_scalar(node.inputs[1])
    if counts is None or factor is None:
        return None
    return replace(counts, unit=counts.unit / factor)


def _positive_scalar(value: ir.Value | None) -> float | None:
    """Content of an initializer of one positive number; None for any other tensor."""
    array = initializer_array(value)
    if array is None or array.size != 1 or array.item() <= 0:
        return None
    return float(array.item())


def _product(node: ir.Node, found: _Found) -> SpikeCounts | None:
    a, b = _inputs(node, found)
    length = _static_size(node.inputs[0], -1)
    if a is None or b is None or length is None:
        return None
    return SpikeCounts(a.largest * b.largest * length, a.unit * b.unit)


def _reduced(node: ir.Node, found: _Found) -> SpikeCounts | None:
    counts, value = _inputs(node, found)[0], node.inputs[0]
    axes = initializer_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if counts is None or axes is None:
        return None
    sizes = [_static_size(value, int(axis)) for axis in axes.reshape(-1)]
    if any(size is None for size in sizes):
        return None
    terms = math.prod(size for size in sizes if size is not None)
    unit = counts.unit / terms if node.op_type == "ReduceMean" else counts.unit
    return SpikeCounts(counts.largest * terms, unit)


def _static_size(value: ir.Value | None, axis: int) -> int | None:
    shape = None if value is None else value.shape
    size = None if shape is None else shape[axis]
    return size if isinstance(size, int) else None


_RULES: dict[str, Callable[[ir.Node, _Found], SpikeCounts | None]] = {
    **dict.fromkeys(
        (
            *("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten"),
            *("Expand", "Identity", "Gather", "MaxPool", "ReduceMax", "Relu"),
        ),
        _moved,
    ),
    "Concat": _joined,
    "Max": _joined,
    "Add": _added,
    "Mul": _multiplied,
    "Div": _divided,
    "MatMul": _product,
    "ReduceSum": _reduced,
    "ReduceMean": _reduced,
}
