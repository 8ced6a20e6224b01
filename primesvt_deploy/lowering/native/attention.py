"""Lower attention on spikes: the products of queries, keys and values, and the neuron behind.

Without a softmax (v k^T) q, q (k^T v) and (q k^T) v are the same whole numbers, in one layout or
another. They are recognised by which elements of the stored q, k and v their products read, and
become one operator; what is no such product stays two general ones. Products may be of windows of
strided positions, and those of several timesteps may be added up in between.
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
_MOST_IN_TABLE = 2**16 - 1
_MOST_WINDOWS = 16
"""Along a side, `MOST_WINDOWS` in the engine."""


@dataclass(frozen=True)
class _Windows:
    """Windows of strided positions.

    Args:
        side: windows along a side; each has every `side`-th position of every `side`-th row.
        columns: positions of a window in a row.
    """

    side: int
    columns: int

    def places(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Places `[windows * heads, positions, size]` of an image stored channels last, or none."""
        parts, positions, size = shape
        side, heads = self.side, parts // self.side**2
        if positions % self.columns:
            return np.empty(0, dtype=np.int64)
        grid = np.arange(side**2 * positions).reshape(-1, side, self.columns, side)
        pixels = grid.transpose(1, 3, 0, 2).reshape(-1, 1, positions, 1)
        channels = np.arange(heads * size).reshape(1, heads, 1, size)
        return (pixels * (heads * size) + channels).reshape(shape)


@dataclass(frozen=True)
class _Operand:
    """Spikes `[windows * heads, positions, size]`, and where they are stored."""

    store: SpikeStore
    places: npt.NDArray[np.int64]

    @property
    def windows(self) -> _Windows | None:
        """The windows that together read the whole image; None: it is not read so."""
        parts, positions, _ = self.places.shape
        if self.places.size != self.store.ref.elements:
            return None
        for side in range(1, _MOST_WINDOWS + 1):
            if parts % side**2:
                continue
            channels = self.places.size // (positions * side**2)
            pixels = (self.places[0, :, 0] - self.places[0, 0, 0]) // channels
            jumps = np.flatnonzero(pixels != np.arange(positions) * side)
            found = _Windows(side, int(jumps[0]) if jumps.size else positions)
            if np.array_equal(found.places(self.places.shape), self.places):
                return found
        return None


def lower_attention(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Add the attention that begins with a product; False: it is none of the known forms."""
    if (node.op_type, node.domain) != ("MatMul", ""):
        return False
    shared = _shared_product(node)
    second = _only_user(shared.product)
    if second is None or second.op_type != "MatMul" or second.inputs[0] is second.inputs[1]:
        return False
    inner_is_left = second.inputs[0] is shared.product
    outer = second.inputs[1 if inner_is_left else 0]
    if not all(builder.holds(value) for value in (*node.inputs, outer)):
        return False
    a, b, c = (builder.view(v) for v in (*node.inputs, outer))
    roles = _roles(a, b, c, inner_is_left, sums=shared.chunk > 1)
    tail = _tail(second)
    if roles is None or tail is None:
        return False
    q, k, v, positions_last = roles
    parts, positions, value_size = v.places.shape
    key_size, windows = q.places.shape[2], q.windows
    summed = positions * shared.chunk
    if windows is None or not windows == k.windows == v.windows:
        return False
    if summed * key_size >= _EXACT or summed > _MOST_IN_TABLE:
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
    heads = parts // windows.side**2
    builder.done |= {*shared.nodes, second, neuron, *chain}
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
            chunk=shared.chunk,
            windows=windows.side,
            columns=windows.columns,
            unit=unit,
            neuron=neuron_ref(lif),
            output=store.ref,
        )
    )
    return True


@dataclass(frozen=True)
class _SharedProduct:
    """A product whose sum over each chunk of timesteps all of the chunk's timesteps get.

    Args:
        product: the tensor of sums; of chunks of one timestep the product itself.
        chunk: timesteps of a chunk.
        nodes: between the product and `product`.
    """

    product: ir.Value
    chunk: int = 1
    nodes: tuple[ir.Node, ...] = ()


def _shared_product(node: ir.Node) -> _SharedProduct:
    """Find what a product's timesteps share; alone, if it is no sum over chunks.

    It is written as a Reshape that splits time into chunks, a ReduceSum, an Unsqueeze, a Concat of
    as many copies as a chunk has timesteps, and a Reshape back.
    """
    alone = _SharedProduct(node.outputs[0])
    nodes: list[ir.Node] = []
    last = node
    for kind in ("Reshape", "ReduceSum", "Unsqueeze", "Concat", "Reshape"):
        following = _only_user(last.outputs[0], copies=kind == "Concat")
        if following is None or (following.op_type, following.domain) != (kind, ""):
            return alone
        nodes.append(following)
        last = following
    whole, split, summed, single, copied, joined = (
        sample_shape(n.outputs[0]) for n in (node, *nodes)
    )
    chunk = len(nodes[3].inputs)
    expected = (whole[0] // chunk, chunk, 1, *whole[1:])
    axes = initializer_array(nodes[1].inputs[1]) if len(nodes[1].inputs) > 1 else None
    if (
        axes is None
        or axes.reshape(-1).tolist() != [1]
        or nodes[3].attributes["axis"].value != 1
        or not split == copied == expected
        or summed != (expected[0], 1, *whole[1:])
        or single != (expected[0], 1, 1, *whole[1:])
        or joined != whole
    ):
        return alone
    return _SharedProduct(last.outputs[0], chunk, tuple(nodes))


def _roles(
    a: View, b: View, c: View, inner_is_left: bool, *, sums: bool
) -> tuple[_Operand, _Operand, _Operand, bool] | None:
    """Queries, keys and values, `[heads, positions, size]`, of (a b) c or of c (a b).

    The last of the four says whether the output is `[heads, size, positions]`. With `sums` a b is
    added up over timesteps: then it must be the product of keys and values.
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
        if turned(first).windows is not None:  # (v k^T) q
            return turned(third), second, turned(first), True
        return None if sums else (first, turned(second), third, False)  # (q k^T) v
    if turned(first).windows is not None:  # q (k^T v)
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


def _only_user(value: ir.Value, *, copies: bool = False) -> ir.Node | None:
    """The one node that uses a tensor, once or, if `copies` are allowed, as several inputs."""
    uses = list(value.uses())
    nodes = {use.node for use in uses}
    if len(nodes) != 1 or value.is_graph_output() or (len(uses) > 1 and not copies):
        return None
    return uses[0].node
