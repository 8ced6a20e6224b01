"""Lower what is neither a layer nor a neuron: moves of elements, arithmetic, sums, products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.native.program import ProgramBuilder, padded_sizes, unsupported
from primesvt_deploy.lowering.native.records import (
    Buffer,
    ElementwiseOp,
    Function,
    MatMulOp,
    OperandKind,
    OperandRef,
    ReduceOp,
    Reduction,
    SpikeAddOp,
    SpikeAndOp,
    SpikePoolOp,
    ValuePoolOp,
)
from primesvt_deploy.lowering.native.shapes import sample_shape
from primesvt_deploy.lowering.native.sinks import pool_window
from primesvt_deploy.lowering.native.stores import (
    SpikeStore,
    View,
    channels_last,
    new_values,
    strides_of,
)
from primesvt_deploy.lowering.traced_graph import initializer_array, layer_name

__all__ = ["lower_tensor"]

_MAX_RANK = 6
_MOST_COUNT = 255


def lower_tensor(builder: ProgramBuilder, node: ir.Node) -> None:
    """Add an operator without weights or state.

    Raises:
        PostconditionError: the engine has no such operator; the layer is named.
    """
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        raise unsupported(layer_name(node), f"the operator {node.op_type}")
    rule(builder, node)


def _reshape(builder: ProgramBuilder, node: ir.Node) -> None:
    view = builder.view(node.inputs[0])
    moved = view.reshaped(sample_shape(node.outputs[0]))
    if moved is None:
        moved = builder.as_values(view, layer_name(node)).reshaped(sample_shape(node.outputs[0]))
    assert moved is not None
    builder.put(node.outputs[0], moved)


def _transpose(builder: ProgramBuilder, node: ir.Node) -> None:
    view, axes = builder.view(node.inputs[0]), node.attributes["perm"].value
    moved = view.transposed(axes)
    if moved is None:
        moved = builder.as_values(view, layer_name(node)).transposed(axes)
    assert moved is not None
    builder.put(node.outputs[0], moved)


def _same(builder: ProgramBuilder, node: ir.Node) -> None:
    builder.put(node.outputs[0], builder.view(node.inputs[0]))


def _slice(builder: ProgramBuilder, node: ir.Node) -> None:
    view, name = builder.view(node.inputs[0]), layer_name(node)
    given = [initializer_array(value) for value in node.inputs[1:]]
    if any(array is None for array in given):
        raise unsupported(name, "a slice whose bounds depend on the input")
    starts, ends, *others = [array.reshape(-1) for array in given if array is not None]
    axes = others[0] if others else np.arange(len(starts))
    steps = others[1] if len(others) > 1 else np.ones_like(starts)
    index = [slice(None)] * len(view.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    if view.spikes is not None and index[0] != slice(None):
        view = builder.as_values(view, name)
    if view.spikes is not None:
        places = view.places[tuple(index[1:])]
        moved = replace(view, places=places, shape=(view.shape[0], *places.shape))
    else:
        places = view.places[tuple(index)]
        moved = replace(view, places=places, shape=places.shape)
    builder.put(node.outputs[0], moved)


def _split(builder: ProgramBuilder, node: ir.Node) -> None:
    axis = int(node.attributes["axis"].value) if "axis" in node.attributes else 0
    view = builder.view(node.inputs[0])
    if axis % len(view.shape) == 0:
        view = builder.as_values(view, layer_name(node))
    start = 0
    for output in node.outputs:
        size = sample_shape(output)[axis]
        index = [slice(None)] * len(view.shape)
        index[axis] = slice(start, start + size)
        places = view.places[tuple(index[1:] if view.spikes is not None else index)]
        builder.put(output, replace(view, places=places, shape=sample_shape(output)))
        start += size


def _concat(builder: ProgramBuilder, node: ir.Node) -> None:
    axis, name = int(node.attributes["axis"].value), layer_name(node)
    first = node.inputs[0]
    if axis == 0 and all(value is first for value in node.inputs):
        view = builder.as_values(builder.view(first), name)
        repeated = np.concatenate([view.places] * len(node.inputs))
        builder.put(node.outputs[0], replace(view, places=repeated, shape=repeated.shape))
        return
    views = [builder.as_values(builder.view(value), name) for value in node.inputs]
    whole = _fresh(sample_shape(node.outputs[0]))
    start = 0
    for view in views:
        size = view.shape[axis]
        index = [slice(None)] * len(whole.shape)
        index[axis] = slice(start, start + size)
        builder.copy(
            view, replace(whole, places=whole.places[tuple(index)], shape=view.shape), name
        )
        start += size
    builder.put(node.outputs[0], whole)


def _fresh(shape: tuple[int, ...]) -> View:
    """A new tensor of values in the traced order of its axes."""
    steps = shape[0]
    elements = int(np.prod(shape[1:]))
    return View(new_values(steps, elements), shape, np.arange(steps * elements).reshape(shape))


def _max_pool(builder: ProgramBuilder, node: ir.Node) -> None:
    name, window = layer_name(node), pool_window(node)
    if window is None:
        raise unsupported(name, "a maximum pool that is no plain 2-d one")
    source = builder.view(node.inputs[0])
    if source.spikes is not None and not source.spikes.in_unary:
        source = builder.as_values(source, name)
    source = builder.stored_last(source, name)
    shape = sample_shape(node.outputs[0])
    places = channels_last(shape[1:])
    if source.spikes is not None:
        store = _like(source.spikes, places.size)
        builder.append(
            SpikePoolOp(
                name=builder.name(name), input=source.spikes.ref, window=window, output=store.ref
            )
        )
        builder.put(node.outputs[0], View(store, shape, places))
        return
    assert source.values is not None
    steps = source.values.ref.steps
    values = new_values(steps, places.size)
    shift = np.arange(shape[0]).reshape(-1, 1, 1, 1) * (places.size if steps > 1 else 0)
    builder.append(
        ValuePoolOp(
            name=builder.name(name), input=source.values.ref, window=window, output=values.ref
        )
    )
    builder.put(node.outputs[0], View(values, shape, places[None] + shift))


def _like(store: SpikeStore, elements: int) -> SpikeStore:
    """A new store of the same form for other neurons."""
    buffer = Buffer(store.ref.groups * store.ref.planes * elements)
    return replace(store, ref=replace(store.ref, buffer=buffer, elements=elements))


def _add(builder: ProgramBuilder, node: ir.Node) -> None:
    if not _add_counts(builder, node):
        _arithmetic(builder, node, Function.ADD)


def _add_counts(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Add counts bit by bit, if both operands are spikes of one form; False: they are not."""
    if not all(builder.holds(value) for value in node.inputs):
        return False
    a, b = (builder.view(value) for value in node.inputs)
    if a.spikes is None or b.spikes is None or a.shape != b.shape:
        return False
    x, y = a.spikes, b.spikes
    forms = [(s.unit, s.ref.groups, s.ref.step_bits, s.ref.steps_per_group) for s in (x, y)]
    addable = all(s.ref.planes == 1 or s.ref.binary for s in (x, y)) and x.ref.step_bits == 1
    if forms[0] != forms[1] or x.largest + y.largest > _MOST_COUNT or not addable:
        return False
    a, b = builder.stored_last(a, layer_name(node)), builder.stored_last(b, layer_name(node))
    assert a.spikes is not None and b.spikes is not None
    x, y = a.spikes, b.spikes
    largest = x.largest + y.largest
    planes = largest.bit_length()
    store = SpikeStore(
        ref=replace(
            x.ref,
            buffer=Buffer(x.ref.groups * planes * x.ref.elements),
            planes=planes,
            binary=1,
        ),
        unit=x.unit,
        largest=largest,
    )
    builder.append(
        SpikeAddOp(name=builder.name(layer_name(node)), a=x.ref, b=y.ref, output=store.ref)
    )
    builder.put(node.outputs[0], View(store, a.shape, a.places))
    return True


def _multiply(builder: ProgramBuilder, node: ir.Node) -> None:
    if not _scale(builder, node) and not _mask(builder, node):
        _arithmetic(builder, node, Function.MUL)


def _scale(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Scale the unit of spikes by a power of two, which is exact; False: the node is not that."""
    arrays = [initializer_array(value) for value in node.inputs]
    factor = next((x for x in arrays if x is not None and x.size == 1), None)
    if factor is None or factor.item() <= 0 or np.frexp(factor.item())[0] != 0.5:
        return False
    source = node.inputs[0] if arrays[0] is None else node.inputs[1]
    view = builder.view(source)
    if view.spikes is None or view.shape != sample_shape(node.outputs[0]):
        return False
    store = replace(view.spikes, unit=view.spikes.unit * float(factor.item()))
    builder.put(node.outputs[0], replace(view, store=store))
    return True


def _mask(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Multiply spikes by spikes, bit by bit; False: the operands are none."""
    if not all(builder.holds(value) for value in node.inputs):
        return False
    a, b = (builder.view(value) for value in node.inputs)
    if a.spikes is None or b.spikes is None or not (a.spikes.fires_once and b.spikes.fires_once):
        return False
    shape = sample_shape(node.outputs[0])
    if len({a.shape[0], b.shape[0], shape[0]}) > 1 or len(shape) - 1 > _MAX_RANK:
        return False
    full = a if a.shape == shape else b
    if full.shape != shape or not full.is_whole():
        return False
    operands = [_bytes(x, shape[1:]) for x in (a, b, full)]
    if any(x is None for x in operands):
        return False
    (base_a, at_a), (base_b, at_b), (base, at) = (x for x in operands if x is not None)
    store = replace(_like(a.spikes, full.places.size), unit=a.spikes.unit * b.spikes.unit)
    name = layer_name(node)
    builder.append(
        SpikeAndOp(
            name=builder.name(name),
            rank=max(len(shape) - 1, 1),
            sizes=padded_sizes(shape[1:] or (1,), name),
            base_a=base_a,
            base_b=base_b,
            base_output=base,
            strides_a=at_a,
            strides_b=at_b,
            strides_output=at,
            a=a.spikes.ref,
            b=b.spikes.ref,
            output=store.ref,
        )
    )
    builder.put(node.outputs[0], View(store, shape, full.places))
    return True


def _bytes(view: View, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    """Base and strides of a step's bytes, broadcast to `shape`."""
    missing = len(shape) - view.places.ndim
    places = view.places.reshape(*[1] * missing, *view.places.shape)
    found = strides_of(np.broadcast_to(places, shape))
    if found is None:
        return None
    base, strides = found
    return base, (*strides, *[0] * (_MAX_RANK - len(strides)))


def _arithmetic(builder: ProgramBuilder, node: ir.Node, function: Function) -> None:
    shape, name = sample_shape(node.outputs[0]), layer_name(node)
    out = _output_like(builder, node, shape)
    operands = [builder.operand(value, shape, node) for value in node.inputs]
    written = out.operand(shape)
    assert written is not None
    builder.append(
        ElementwiseOp(
            name=builder.name(name),
            function=function,
            rank=len(shape),
            sizes=padded_sizes(shape, name),
            a=operands[0],
            b=operands[1],
            output=written,
        )
    )
    builder.put(node.outputs[0], out)


def _output_like(builder: ProgramBuilder, node: ir.Node, shape: tuple[int, ...]) -> View:
    """A new tensor of values in the order of an operand that has its shape, if one has."""
    for value in node.inputs:
        if builder.holds(value):
            view = builder.view(value)
            if view.shape == shape and view.is_whole():
                places = view.step_places()
                shift = np.arange(shape[0]).reshape(-1, *[1] * places.ndim) * places.size
                return View(new_values(shape[0], places.size), shape, places[None] + shift)
    return _fresh(shape)


def _subtract(builder: ProgramBuilder, node: ir.Node) -> None:
    _arithmetic(builder, node, Function.SUB)


def _divide(builder: ProgramBuilder, node: ir.Node) -> None:
    _arithmetic(builder, node, Function.DIV)


def _maximum(builder: ProgramBuilder, node: ir.Node) -> None:
    if len(node.inputs) != 2:
        raise unsupported(layer_name(node), f"a maximum of {len(node.inputs)} tensors")
    _arithmetic(builder, node, Function.MAX)


def _relu(builder: ProgramBuilder, node: ir.Node) -> None:
    view = builder.view(node.inputs[0])
    if view.spikes is not None:
        builder.put(node.outputs[0], view)
        return
    shape, name = view.shape, layer_name(node)
    out = _output_like(builder, node, shape)
    operand, written = builder.operand(node.inputs[0], shape, node), out.operand(shape)
    assert written is not None
    builder.append(
        ElementwiseOp(
            name=builder.name(name),
            function=Function.MAX,
            rank=len(shape),
            sizes=padded_sizes(shape, name),
            a=operand,
            b=OperandRef(kind=OperandKind.SCALAR, unit=0.0),
            output=written,
        )
    )
    builder.put(node.outputs[0], out)


def _reduce(builder: ProgramBuilder, node: ir.Node) -> None:
    shape, name = sample_shape(node.inputs[0]), layer_name(node)
    axes = initializer_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        raise unsupported(name, f"a {node.op_type} whose axes depend on the input")
    reduced = sorted(int(axis) % len(shape) for axis in axes.reshape(-1))
    kept = [axis for axis in range(len(shape)) if axis not in reduced]
    view = builder.view(node.inputs[0])
    operand = builder.operand(node.inputs[0], shape, node)
    if view.spikes is not None and kept[:1] != [0]:
        operand = _operand(builder.as_values(view, name), shape)
    order = [*kept, *reduced]
    sizes = [shape[axis] for axis in order]
    out_shape = tuple(shape[axis] for axis in kept) or (1,)
    out = _fresh(out_shape)
    written = out.operand(out_shape)
    assert written is not None
    builder.append(
        ReduceOp(
            name=builder.name(name),
            function=_REDUCTIONS[node.op_type],
            rank=len(sizes),
            kept=len(kept),
            sizes=padded_sizes(sizes, name),
            input=_permuted(operand, order),
            output=written,
        )
    )
    final = out.reshaped(sample_shape(node.outputs[0]))
    assert final is not None
    builder.put(node.outputs[0], final)


_REDUCTIONS = {
    "ReduceSum": Reduction.SUM,
    "ReduceMean": Reduction.MEAN,
    "ReduceMax": Reduction.MAX,
}


def _operand(view: View, shape: tuple[int, ...]) -> OperandRef:
    found = view.operand(shape)
    assert found is not None
    return found


def _permuted(operand: OperandRef, order: list[int]) -> OperandRef:
    strides = [operand.strides[axis] for axis in order]
    return replace(operand, strides=(*strides, *[0] * (_MAX_RANK - len(strides))))


def _matmul(builder: ProgramBuilder, node: ir.Node) -> None:
    name = layer_name(node)
    a, b = (builder.view(value) for value in node.inputs)
    shape = sample_shape(node.outputs[0])
    if len(a.shape) != len(b.shape) or len(shape) != len(a.shape) or len(shape) < 3:
        raise unsupported(name, f"a product of tensors of {len(a.shape)} and {len(b.shape)} axes")
    inner = a.shape[-1]
    whole = (*shape, inner)  # batch, m, n, k
    batch = shape[:-2]
    left = _with_axis(builder, a, (*batch, shape[-2], inner), name, axis=-2)
    right = _with_axis(
        builder, _swapped(builder, b, name), (*batch, shape[-1], inner), name, axis=-3
    )
    out = _fresh(shape)
    written = out.operand(shape)
    assert written is not None
    builder.append(
        MatMulOp(
            name=builder.name(name),
            rank=len(whole),
            sizes=padded_sizes(whole, name),
            a=left,
            b=right,
            output=written,
        )
    )
    builder.put(node.outputs[0], out)


def _swapped(builder: ProgramBuilder, view: View, name: str) -> View:
    axes = [*range(len(view.shape) - 2), len(view.shape) - 1, len(view.shape) - 2]
    moved = view.transposed(axes)
    return moved if moved is not None else _swapped(builder, builder.as_values(view, name), name)


def _with_axis(
    builder: ProgramBuilder, view: View, shape: tuple[int, ...], name: str, *, axis: int
) -> OperandRef:
    """An operand broadcast to `shape`, with an axis of stride 0 put in."""
    found = view.operand(shape)
    if found is None:
        found = builder.contiguous(view, name).operand(shape)
    assert found is not None
    strides = list(found.strides[: len(shape)])
    strides.insert(len(strides) + 1 + axis, 0)
    return replace(found, strides=(*strides, *[0] * (_MAX_RANK - len(strides))))


_RULES: dict[str, Callable[[ProgramBuilder, ir.Node], None]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax"), _reduce),
    "Transpose": _transpose,
    "Identity": _same,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "MaxPool": _max_pool,
    "Add": _add,
    "Mul": _multiply,
    "Sub": _subtract,
    "Div": _divide,
    "Max": _maximum,
    "Relu": _relu,
    "MatMul": _matmul,
}
