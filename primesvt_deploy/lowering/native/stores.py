"""Tensors of a native program: how each is stored, and which element stands where.

A traced tensor is held as a `View`: a store, and for each of the tensor's elements its place in
it. What only moves elements about (Reshape, Transpose, Slice) makes another view and costs
nothing. Time is axis 0 of every traced tensor; spikes have it in the bits of their bytes, so that
their views have the remaining axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from primesvt_deploy.lowering.native.records import (
    MAX_RANK,
    Buffer,
    OperandKind,
    OperandRef,
    SpikesRef,
    ValuesRef,
)

__all__ = [
    "SpikeStore",
    "ValueStore",
    "View",
    "channels_last",
    "factored",
    "new_spikes",
    "new_values",
    "strides_of",
]

_Places = npt.NDArray[np.int64]
_BITS = 8


@dataclass(frozen=True, kw_only=True)
class SpikeStore:
    """Spike counts in bits.

    Args:
        ref: how they are stored.
        unit: value of a count of one.
        largest: count.
    """

    ref: SpikesRef
    unit: float = 1.0
    largest: int = 1

    @property
    def in_unary(self) -> bool:
        """Whether the largest of several counts is the union of their bits."""
        return not self.ref.binary

    @property
    def fires_once(self) -> bool:
        """Whether a neuron fires once a timestep at most."""
        return self.ref.planes == 1 and self.ref.step_bits == 1


@dataclass(frozen=True, kw_only=True)
class ValueStore:
    """Real values, float32 `[steps, elements]`."""

    ref: ValuesRef


@dataclass(frozen=True)
class View:
    """A traced tensor in a store.

    Args:
        store: where its elements are.
        shape: of the traced tensor.
        places: index in the store of each element; of spikes without axis 0, which is time.
    """

    store: SpikeStore | ValueStore
    shape: tuple[int, ...]
    places: _Places

    @property
    def spikes(self) -> SpikeStore | None:
        """The store, if it is of spikes."""
        return self.store if isinstance(self.store, SpikeStore) else None

    @property
    def values(self) -> ValueStore | None:
        """The store, if it is of values."""
        return self.store if isinstance(self.store, ValueStore) else None

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements in another shape; None: spikes cannot move along time."""
        shape = tuple(shape)
        if self.values is not None:
            return replace(self, shape=shape, places=self.places.reshape(shape))
        if shape[0] != self.shape[0]:
            return None
        return replace(self, shape=shape, places=self.places.reshape(shape[1:]))

    def transposed(self, axes: Sequence[int]) -> View | None:
        """The same elements with axes in another order; None: spikes cannot move along time."""
        axes = tuple(axes)
        shape = tuple(self.shape[axis] for axis in axes)
        if self.values is not None:
            return replace(self, shape=shape, places=self.places.transpose(axes))
        if axes[0] != 0:
            return None
        order = [axis - 1 for axis in axes[1:]]
        return replace(self, shape=shape, places=self.places.transpose(order))

    def is_last(self) -> bool:
        """Whether the store holds exactly this tensor, channels last: `[steps, places, C]`."""
        places = self.places if self.spikes is not None else self._each_step()
        if places is None:
            return False
        elements = self.store.ref.elements
        return places.size == elements and bool(
            np.array_equal(places.reshape(-1), channels_last(places.shape).reshape(-1))
        )

    def is_whole(self) -> bool:
        """Whether every element of the store is one of this tensor's, step by step."""
        places = self.places if self.spikes is not None else self._each_step()
        if places is None or places.size != self.store.ref.elements:
            return False
        seen = np.zeros(places.size, dtype=bool)
        seen[places.reshape(-1)] = True
        return bool(seen.all())

    def step_places(self) -> _Places:
        """Places of a step, the same for all."""
        places = self.places if self.spikes is not None else self._each_step()
        assert places is not None
        return places

    def _each_step(self) -> _Places | None:
        """Places of the first step, if those of the others follow in the store's order of steps."""
        assert self.values is not None
        ref = self.values.ref
        first: _Places = self.places[0]
        if self.shape[0] == 1 and ref.steps == 1:
            return first
        stride = 0 if ref.steps == 1 else ref.elements
        if ref.steps not in (1, self.shape[0]):
            return None
        steps = np.arange(self.shape[0]).reshape(-1, *[1] * first.ndim) * stride
        return first if np.array_equal(self.places, first[None] + steps) else None

    @property
    def is_static(self) -> bool:
        """Whether every step is the same one."""
        return self.values is not None and self.values.ref.steps == 1

    def operand(self, shape: Sequence[int]) -> OperandRef | None:
        """The tensor as an operand broadcast to `shape`; None: it has no strides."""
        places = self.places
        if self.spikes is not None:
            whole = np.broadcast_to(
                places.reshape(*[1] * (len(shape) - 1 - places.ndim), *places.shape), shape[1:]
            )
            found = strides_of(whole)
            if found is None:
                return None
            base, strides = found
            return OperandRef(
                kind=OperandKind.SPIKES,
                base=base,
                strides=_filled((0, *strides)),
                spikes=self.spikes.ref,
                unit=self.spikes.unit,
            )
        assert self.values is not None
        found = strides_of(np.broadcast_to(places, shape))
        if found is None:
            return None
        base, strides = found
        return OperandRef(
            kind=OperandKind.VALUES,
            base=base,
            strides=_filled(strides),
            values=self.values.ref,
        )


def _filled(strides: Sequence[int]) -> tuple[int, ...]:
    return (*strides, *[0] * (MAX_RANK - len(strides)))


def strides_of(places: _Places) -> tuple[int, tuple[int, ...]] | None:
    """Base and stride of each axis that give all places; None: none do."""
    base = int(places.reshape(-1)[0])
    strides: list[int] = []
    for axis, size in enumerate(places.shape):
        second: list[int] = [0] * places.ndim
        if size > 1:
            second[axis] = 1
        strides.append(int(places[tuple(second)]) - base)
    expected = np.asarray(base)
    for axis, size in enumerate(places.shape):
        sizes = [1] * places.ndim
        sizes[axis] = size
        expected = expected + (np.arange(size) * strides[axis]).reshape(sizes)
    return (base, tuple(strides)) if np.array_equal(expected, places) else None


def factored(places: _Places) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Sizes, base and strides of the coarsest axes that give places, in the order of the flat ones.

    The product of the sizes is the number of places; what no fewer axes give ends in many small
    ones.
    """
    flat = places.reshape(-1)
    base = int(flat[0])
    sizes: list[int] = []
    strides: list[int] = []
    while flat.size > 1:
        stride = int(flat[1] - flat[0])
        steps = np.diff(flat) != stride
        run = int(np.argmax(steps)) + 1 if steps.any() else flat.size
        size = next(
            d for d in range(run, 0, -1) if flat.size % d == 0 and _regular(flat, d, stride)
        )
        sizes.insert(0, size)
        strides.insert(0, stride)
        if size == 1:  # nothing regular: the rest is one axis without a stride
            return (flat.size,), base, (0,)
        flat = flat.reshape(-1, size)[:, 0]
    return tuple(sizes) or (1,), base, tuple(strides) or (0,)


def _regular(flat: _Places, size: int, stride: int) -> bool:
    blocks = flat.reshape(-1, size)
    return bool(np.array_equal(blocks, blocks[:, :1] + np.arange(size) * stride))


def channels_last(shape: Sequence[int]) -> _Places:
    """Places of a tensor `[C, H, W]`, or `[..., C]` of another rank, stored channels last."""
    count = int(np.prod(shape))
    if len(shape) != 3:
        return np.arange(count).reshape(shape)
    channels, height, width = shape
    return np.arange(count).reshape(height, width, channels).transpose(2, 0, 1)


def new_values(steps: int, elements: int) -> ValueStore:
    """A store of values of its own."""
    buffer = Buffer(4 * steps * elements)
    return ValueStore(ref=ValuesRef(buffer=buffer, steps=steps, elements=elements))


def new_spikes(steps: int, elements: int, *, levels: int = 1, unit: float = 1.0) -> SpikeStore:
    """A store of spikes of its own.

    Args:
        steps: T.
        elements: neurons.
        levels: largest count of a neuron; in unary, in the bits of a byte if that holds them.
        unit: value of a count of one.
    """
    step_bits = levels if levels > 1 and steps * levels <= _BITS else 1
    count = 1 if step_bits > 1 else levels
    steps_per_group = steps if steps * step_bits <= _BITS else _BITS
    groups = -(-steps // steps_per_group)
    ref = SpikesRef(
        buffer=Buffer(groups * count * elements),
        steps=steps,
        groups=groups,
        planes=count,
        step_bits=step_bits,
        steps_per_group=steps_per_group,
        elements=elements,
    )
    return SpikeStore(ref=ref, unit=unit, largest=levels)
