"""Which element of a tensor stands where in its store."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.native.stores import (
    View,
    channels_last,
    factored,
    new_spikes,
    new_values,
    strides_of,
)

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


def values_of(shape: tuple[int, ...]) -> View:
    """A tensor in its own order: the element at a place is the place."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return View(new_values(shape[0], int(np.prod(shape[1:]))), shape, places)


@given(SHAPES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_moves_are_those_of_numpy(shape: tuple[int, ...], random: object) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    view, array = values_of(shape), np.arange(int(np.prod(shape))).reshape(shape)
    moved = view.transposed(axes)
    assert moved is not None
    flat = moved.reshaped((int(np.prod(shape)),))
    assert flat is not None
    np.testing.assert_array_equal(flat.places, array.transpose(axes).reshape(-1))


@given(SHAPES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_factored_axes_give_the_places(shape: tuple[int, ...], random: object) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    places = np.arange(int(np.prod(shape))).reshape(shape).transpose(axes)
    sizes, base, strides = factored(places)
    found = strides_of(places.reshape(sizes))
    assert int(np.prod(sizes)) == places.size
    assert found is not None and found[0] == base
    kept = [i for i, size in enumerate(sizes) if size > 1]
    assert [found[1][i] for i in kept] == [strides[i] for i in kept]


def test_a_merged_axis_without_a_stride_has_finer_axes_that_have_them() -> None:
    merged = np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1).reshape(2, 12)
    assert strides_of(merged) is None
    assert factored(merged)[0] == (2, 4, 3)


def test_spikes_do_not_move_along_time() -> None:
    view = View(new_spikes(4, 6), (4, 2, 3), np.arange(6).reshape(2, 3))
    assert view.transposed((1, 0, 2)) is None
    assert view.reshaped((2, 12)) is None
    moved = view.reshaped((4, 6))
    assert moved is not None and moved.places.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("steps", "levels", "form"),
    [
        (4, 1, (1, 1, 1, 4)),  # groups, planes, bits a step, steps a group
        (8, 1, (1, 1, 1, 8)),
        (10, 1, (2, 1, 1, 8)),
        (1, 4, (1, 1, 4, 1)),
        (2, 4, (1, 1, 4, 2)),
        (4, 4, (1, 4, 1, 4)),  # 16 bits are too many for a byte
    ],
)
def test_bits_of_spikes(steps: int, levels: int, form: tuple[int, ...]) -> None:
    ref = new_spikes(steps, 5, levels=levels).ref
    assert (ref.groups, ref.planes, ref.step_bits, ref.steps_per_group) == form
    assert ref.buffer.bytes == ref.groups * ref.planes * 5


def test_channels_last() -> None:
    places = channels_last((2, 2, 3))  # C, H, W
    assert places[1, 0, 0] == 1 and places[0, 0, 1] == 2 and places[0, 1, 0] == 6
    view = View(new_spikes(2, 12), (2, 2, 2, 3), places)
    assert view.is_last() and view.is_whole()
    first = View(new_spikes(2, 12), (2, 2, 2, 3), np.arange(12).reshape(2, 2, 3))
    assert first.is_whole() and not first.is_last()
