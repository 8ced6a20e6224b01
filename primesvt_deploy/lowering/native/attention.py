"""Lower attention on spikes: the products of queries, keys and values, and the neuron behind.

Without a softmax (v k^T) q, q (k^T v) and (q k^T) v are the same whole numbers, in one layout or
another. They are recognised by which elements of the stored q, k and v their products read, and
become one operator; what is no such product stays two general ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.native.program import ProgramBuilder
from primesvt_deploy.lowering.native.records import AttentionOp
from primesvt_deploy.lowering.native.shapes import sample_shape
from primesvt_deploy.lowering.native.sinks import neuron_ref
from primesvt_deploy.lowering.native.stores import SpikeStore, View, new_spikes
from primesvt_deploy.lowering.traced_graph import (
    initializer_array,
    is_neuron,
    neuron_constants,
    neuron_layer_name,
)

__all__ = ["lower_attention"]

_EXACT = 2**24


@dataclass(frozen=True)
class _Operand:
    """Spikes `[heads, positions, size]`, and whether the product has them transposed."""

    store: SpikeStore
    places: npt.NDArray[np.int64]

    @property
    def is_stored_so(self) -> bool:
        heads, positions, size = self.places.shape
        whole = np.arange(self.places.size).reshape(positions, heads, size).transpose(1, 0, 2)
        return self.places.size == self.store.ref.elements and np.array_equal(whole, self.places)


def lower_attention(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Add the attention that begins with a product; False: it is none of the known forms."""
    second = _only_user(node.outputs[0])
    if (node.op_type, node.domain) != ("MatMul", "") or second is None:
        return False
    if second.op_type != "MatMul" or second.inputs[0] is second.inputs[1]:
        return False
    inner_is_left = second.inputs[0] is node.outputs[0]
    outer = second.inputs[1 if inner_is_left else 0]
    if not all(builder.holds(value) for value in (*node.inputs, outer)):
        return False
    a, b, c = (builder.view(v) for v in (*node.inputs, outer))
    roles = _roles(a, b, c, inner_is_left)
    tail = _tail(second)
    if roles is None or tail is None:
        return False
    q, k, v, positions_last = roles
    heads, positions, value_size = v.places.shape
    key_size = q.places.shape[2]
    if positions * key_size >= _EXACT or not all(x.is_stored_so for x in (q, k, v)):
        return False
    chain, unit, neuron = tail
    lif = neuron_constants(neuron)
    if lif.timesteps != q.store.ref.steps or lif.static_input or lif.levels != 1:
        return False
    store = new_spikes(lif.timesteps, v.places.size, levels=lif.levels, unit=lif.spike_value)
    places = v.places.transpose(0, 2, 1) if positions_last else v.places
    out = View(store, (lif.timesteps, *places.shape), places)
    for step in chain:
        moved = _moved(step, out)
        if moved is None:
            return False
        out = moved
    builder.done |= {second, neuron, *chain}
    builder.put(neuron.outputs[0], out)
    builder.observed[neuron_layer_name(neuron)] = out
    builder.append(
        AttentionOp(
            name=builder.name(neuron_layer_name(neuron)),
            observed=heads * value_size,
            q=q.store.ref,
            k=k.store.ref,
            v=v.store.ref,
            positions=positions,
            heads=heads,
            key_size=key_size,
            value_size=value_size,
            unit=unit,
            neuron=neuron_ref(lif),
            output=store.ref,
        )
    )
    return True


def _roles(
    a: View, b: View, c: View, inner_is_left: bool
) -> tuple[_Operand, _Operand, _Operand, bool] | None:
    """Queries, keys and values, `[heads, positions, size]`, of (a b) c or of c (a b).

    The last of the four says whether the output is `[heads, size, positions]`.
    """
    views = (a, b, c)
    if any(
        x.spikes is None or not x.spikes.fires_once or x.spikes.unit != 1.0 or x.places.ndim != 3
        for x in views
    ):
        return None
    if any(x.spikes is not None and x.spikes.ref.groups > 1 for x in views):
        return None
    first, second, third = (_Operand(x.spikes, x.places) for x in views if x.spikes is not None)

    def turned(x: _Operand) -> _Operand:
        return _Operand(x.store, x.places.transpose(0, 2, 1))

    if inner_is_left:  # (a b) c
        if turned(first).is_stored_so:  # (v k^T) q
            return turned(third), second, turned(first), True
        return first, turned(second), third, False  # (q k^T) v
    if turned(first).is_stored_so:  # q (k^T v)
        return third, turned(first), second, False
    return None


def _tail(node: ir.Node) -> tuple[list[ir.Node], float, ir.Node] | None:
    """Nodes between a product and its neuron that move elements, their factor, and the neuron."""
    chain: list[ir.Node] = []
    unit = np.float32(1.0)
    following = _only_user(node.outputs[0])
    while following is not None and not is_neuron(following):
        if following.op_type in ("Reshape", "Transpose"):
            chain.append(following)
        elif following.op_type == "Mul" and unit == 1.0:
            arrays = [initializer_array(value) for value in following.inputs]
            factor = next((x for x in arrays if x is not None), None)
            if factor is None or np.unique(factor).size != 1:
                return None
            unit = np.float32(factor.reshape(-1)[0])
            chain.append(following)
        else:
            return None
        following = _only_user(following.outputs[0])
    return None if following is None else (chain, float(unit), following)


def _moved(node: ir.Node, view: View) -> View | None:
    if node.op_type == "Mul":
        return view
    if node.op_type == "Transpose":
        return view.transposed(node.attributes["perm"].value)
    return view.reshaped(sample_shape(node.outputs[0]))


def _only_user(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
