"""The native program while it is built: tensors by traced tensor, and operators in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.contract import PostconditionError
from primesvt_deploy.lowering.integer.spike_counts import SpikeCounts
from primesvt_deploy.lowering.native.records import (
    Buffer,
    CopyOp,
    Data,
    OperandKind,
    OperandRef,
    Operator,
    ValuesRef,
)
from primesvt_deploy.lowering.native.stores import (
    SpikeStore,
    View,
    channels_last,
    factored,
    new_values,
    strides_of,
)
from primesvt_deploy.lowering.traced_graph import initializer_array, layer_name

__all__ = ["NativeProgram", "ProgramBuilder", "padded_sizes", "unsupported"]

_MAX_RANK = 6


@dataclass(frozen=True, kw_only=True)
class NativeProgram:
    """A program of the native engine.

    Args:
        operators: in order.
        timesteps: T.
        frames: of an event recording in the input; 0: the input is an image.
        input_shape: (C, H, W).
        input: the store that the input is written to; None: it is pixels, which are not stored.
        logits: the view of the logits, `[1, K]`.
        integer_layers: weighted layers that add integer weights.
        float_layers: weighted layers that run on float32, and why.
        observed: how the outputs are stored that an observer gets, by layer.
    """

    operators: tuple[Operator, ...]
    timesteps: int
    frames: int
    input_shape: tuple[int, int, int]
    input: View | None
    logits: View
    integer_layers: tuple[str, ...]
    float_layers: Mapping[str, str]
    observed: Mapping[str, View]

    def input_buffer(self) -> Buffer:
        """Buffer that the input is written to; of no bytes, if it is not stored."""
        return Buffer(0) if self.input is None else _buffer_of(self.input)

    def logits_buffer(self) -> Buffer:
        """Buffer that the logits are in."""
        return _buffer_of(self.logits)


def _buffer_of(view: View) -> Buffer:
    """Buffer of a view of values."""
    assert view.values is not None
    buffer = view.values.ref.buffer
    assert isinstance(buffer, Buffer)
    return buffer


@dataclass
class ProgramBuilder:
    """A program under construction.

    Args:
        timesteps: T.
        counts: the traced tensors that hold spike counts.
        observe_float_layers: keep the outputs of float layers, for an observer.
    """

    timesteps: int
    counts: Mapping[ir.Value, SpikeCounts]
    observe_float_layers: bool = False
    operators: list[Operator] = field(default_factory=list)
    done: set[ir.Node] = field(default_factory=set)
    integer_layers: list[str] = field(default_factory=list)
    float_layers: dict[str, str] = field(default_factory=dict)
    observed: dict[str, View] = field(default_factory=dict)
    _views: dict[ir.Value, View] = field(default_factory=dict)
    _names: dict[str, Data] = field(default_factory=dict)
    _arrays: dict[tuple[str, tuple[int, ...], bytes], Data] = field(default_factory=dict)

    def put(self, value: ir.Value, view: View) -> None:
        """Hold a traced tensor."""
        self._views[value] = view

    def holds(self, value: ir.Value | None) -> bool:
        """Whether a traced tensor is computed already."""
        return value in self._views

    def view(self, value: ir.Value | None) -> View:
        """A traced tensor that is computed already."""
        assert value is not None
        return self._views[value]

    def name(self, layer: str) -> Data:
        """A layer's name in the file."""
        if layer not in self._names:
            self._names[layer] = Data(np.frombuffer(layer.encode() + b"\0", dtype=np.uint8))
        return self._names[layer]

    def data(self, array: npt.NDArray[np.generic]) -> Data:
        """A constant in the file, the same one whenever the content is."""
        whole = np.ascontiguousarray(array)
        key = (whole.dtype.str, whole.shape, whole.tobytes())
        if key not in self._arrays:
            self._arrays[key] = Data(whole)
        return self._arrays[key]

    def append(self, operator: Operator) -> None:
        """Add an operator."""
        self.operators.append(operator)

    def stored_last(self, view: View, name: str) -> View:
        """A tensor in a store of its own, channels last, time in order: copied if it must be."""
        if view.is_last():
            return view
        if view.operand(view.shape) is None:
            view = self.contiguous(view, name)
            if view.is_last():
                return view
        if view.spikes is not None:
            places = channels_last(view.shape[1:])
            copy = replace(view, store=self._like(view.spikes, places.size), places=places)
        else:
            steps = view.shape[0]
            step = channels_last(view.shape[1:])
            shift = np.arange(steps).reshape(-1, *[1] * step.ndim) * step.size
            copy = replace(view, store=new_values(steps, step.size), places=step[None] + shift)
        self.copy(view, copy, name)
        return copy

    def contiguous(self, view: View, name: str) -> View:
        """A copy of a tensor in the traced order of its axes."""
        elements = int(np.prod(view.shape[1:]))
        if view.spikes is not None:
            places = np.arange(elements).reshape(view.shape[1:])
            copy = replace(view, store=self._like(view.spikes, elements), places=places)
        else:
            steps = view.shape[0]
            places = np.arange(steps * elements).reshape(view.shape)
            copy = replace(view, store=new_values(steps, elements), places=places)
        # In the axes that the source is stored by, which may be finer than those of its shape.
        sizes, _, _ = factored(view.places)
        time = (view.shape[0],) if view.spikes is not None else ()
        source, target = (
            replace(x, shape=(*time, *sizes), places=x.places.reshape(sizes)) for x in (view, copy)
        )
        self.copy(source, target, name)
        return copy

    def as_values(self, view: View, name: str) -> View:
        """A tensor as real values."""
        if view.spikes is None:
            return view
        if not view.is_whole():
            view = self.contiguous(view, name)
        assert view.spikes is not None
        steps, elements = view.shape[0], view.places.size
        shift = np.arange(steps).reshape(-1, *[1] * view.places.ndim) * elements
        copy = replace(view, store=new_values(steps, elements), places=view.places[None] + shift)
        flat = np.arange(elements)
        stored = replace(view, shape=(steps, elements), places=flat)
        shift = np.arange(steps)[:, None] * elements
        self.copy(stored, replace(copy, shape=(steps, elements), places=flat[None] + shift), name)
        return copy

    @staticmethod
    def _like(store: SpikeStore, elements: int) -> SpikeStore:
        buffer = Buffer(store.ref.groups * store.ref.planes * elements)
        return replace(store, ref=replace(store.ref, buffer=buffer, elements=elements))

    def copy(self, source: View, target: View, name: str) -> None:
        """Add a copy of a tensor to another of the same shape."""
        shape = source.shape
        given, taken = source.operand(shape), target.operand(shape)
        if target.spikes is not None:  # bytes, which have time in their bits
            shape = (1, *shape[1:])
        if given is None or taken is None:
            raise unsupported(name, "an order of elements without strides")
        self.append(
            CopyOp(
                name=self.name(name),
                rank=len(shape),
                sizes=padded_sizes(shape, name),
                input=given,
                output=taken,
            )
        )

    def operand(self, value: ir.Value | None, shape: Sequence[int], node: ir.Node) -> OperandRef:
        """A traced tensor or constant as an operand, broadcast to `shape`."""
        array = initializer_array(value)
        if array is not None:
            return self._constant(np.asarray(array, dtype=np.float32), shape)
        view = self.view(value)
        found = view.operand(shape)
        if found is None:
            found = self.contiguous(view, layer_name(node)).operand(shape)
        assert found is not None
        return found

    def _constant(self, array: npt.NDArray[np.float32], shape: Sequence[int]) -> OperandRef:
        if array.size == 1:
            return OperandRef(kind=OperandKind.SCALAR, unit=float(array.reshape(())))
        places = np.broadcast_to(np.arange(array.size).reshape(array.shape), shape)
        found = strides_of(places)
        assert found is not None
        base, strides = found
        return OperandRef(
            kind=OperandKind.DATA,
            base=base,
            strides=(*strides, *[0] * (_MAX_RANK - len(strides))),
            values=ValuesRef(buffer=self.data(array), steps=1, elements=array.size),
        )


def padded_sizes(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """Sizes of axes, filled up to the rank of a record."""
    if len(shape) > _MAX_RANK:
        raise unsupported(name, f"a tensor of {len(shape)} axes")
    return (*shape, *[0] * (_MAX_RANK - len(shape)))


def unsupported(layer: str, what: str) -> PostconditionError:
    """The error that a layer has what the native engine cannot run."""
    return PostconditionError(
        f"the native runtime cannot run layer {layer}: {what}; build with --runtime onnx"
    )
