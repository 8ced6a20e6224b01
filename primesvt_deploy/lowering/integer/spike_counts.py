"""Which tensors of a traced graph hold counts of spikes, from the graph's structure alone.

Neurons fire counts: spikes are 0 or 1, integer neurons fire up to D. Residuals of spikes add
counts up, pooling picks among them, attention multiplies them. What real numbers reach, such as
an image or a residual of membrane currents, holds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.lif import LIF_DOMAIN

__all__ = ["BYTE", "Counts", "constant", "find_counts"]

BYTE = 255


@dataclass(frozen=True)
class Counts:
    """A tensor's values are `unit * n` with n whole, `0 <= n <= most`."""

    most: int
    unit: float

    @property
    def fit_a_byte(self) -> bool:
        """Whether uint8 holds every n."""
        return self.most <= BYTE


def find_counts(graph: ir.Graph) -> dict[ir.Value, Counts]:
    """The tensors of a traced graph, neurons as `ai.primesvt::LIF` nodes, that hold counts."""
    found: dict[ir.Value, Counts] = {}
    for node in graph:
        if node.domain == LIF_DOMAIN:
            levels, value = node.attributes["levels"].value, node.attributes["spike_value"].value
            found[node.outputs[0]] = Counts(int(levels), float(value))
            continue
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        outcome = rule(node, found) if rule else None
        if outcome is not None:
            found |= dict.fromkeys(node.outputs, outcome)
    return found


def constant(value: ir.Value | None) -> np.ndarray | None:
    """What an initializer holds; None for other tensors."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


_Known = Mapping[ir.Value, Counts]


def _inputs(node: ir.Node, known: _Known) -> list[Counts | None]:
    return [known.get(value) if value is not None else None for value in node.inputs]


def _moved(node: ir.Node, known: _Known) -> Counts | None:
    """Nodes that move values about: what the first input holds."""
    return _inputs(node, known)[0]


def _joined(node: ir.Node, known: _Known) -> Counts | None:
    parts = _inputs(node, known)
    first = parts[0]
    if first is None or any(part is None or part.unit != first.unit for part in parts):
        return None
    return replace(first, most=max(part.most for part in parts if part))


def _added(node: ir.Node, known: _Known) -> Counts | None:
    a, b = _inputs(node, known)
    if a is None or b is None or a.unit != b.unit:
        return None
    return replace(a, most=a.most + b.most)


def _multiplied(node: ir.Node, known: _Known) -> Counts | None:
    a, b = _inputs(node, known)
    if a is not None and b is not None:
        return Counts(a.most * b.most, a.unit * b.unit)
    counts, other = (a, node.inputs[1]) if a is not None else (b, node.inputs[0])
    factor = constant(other)
    if counts is None or factor is None or factor.size != 1 or factor.item() <= 0:
        return None
    return replace(counts, unit=counts.unit * float(factor.item()))


def _divided(node: ir.Node, known: _Known) -> Counts | None:
    counts, factor = _inputs(node, known)[0], constant(node.inputs[1])
    if counts is None or factor is None or factor.size != 1 or factor.item() <= 0:
        return None
    return replace(counts, unit=counts.unit / float(factor.item()))


def _product(node: ir.Node, known: _Known) -> Counts | None:
    a, b = _inputs(node, known)
    length = _static(node.inputs[0], -1)
    if a is None or b is None or length is None:
        return None
    return Counts(a.most * b.most * length, a.unit * b.unit)


def _reduced(node: ir.Node, known: _Known) -> Counts | None:
    counts, value = _inputs(node, known)[0], node.inputs[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if counts is None or axes is None:
        return None
    sizes = [_static(value, int(axis)) for axis in axes.reshape(-1)]
    if any(size is None for size in sizes):
        return None
    terms = math.prod(size for size in sizes if size is not None)
    unit = counts.unit / terms if node.op_type == "ReduceMean" else counts.unit
    return Counts(counts.most * terms, unit)


def _static(value: ir.Value | None, axis: int) -> int | None:
    shape = None if value is None else value.shape
    size = None if shape is None else shape[axis]
    return size if isinstance(size, int) else None


_RULES: dict[str, Callable[[ir.Node, _Known], Counts | None]] = {
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
