"""Splits share no image, and lists of images keep images and labels together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.data.images import MIN_SPLIT, ImageList, fingerprint, halves
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import DataError

LABELS = st.lists(st.integers(0, 6), min_size=2 * MIN_SPLIT, max_size=400).map(
    lambda values: np.asarray(values, dtype=np.int64)
)
PLAIN = Preprocessing(
    height=2, width=2, resize=2, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
)


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, seed=st.integers(0, 2**31))
def test_halves_are_disjoint_and_cover_all(labels: npt.NDArray[np.int64], seed: int) -> None:
    first, second = halves(labels, seed=seed, source="x")
    assert sorted([*first, *second]) == list(range(len(labels)))


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, seed=st.integers(0, 2**31))
def test_halves_are_balanced(labels: npt.NDArray[np.int64], seed: int) -> None:
    first, second = halves(labels, seed=seed, source="x")
    assert abs(len(first) - len(second)) <= 1
    for label in range(7):
        in_each = [int((labels[half] == label).sum()) for half in (first, second)]
        assert abs(in_each[0] - in_each[1]) <= 1


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, seed=st.integers(0, 2**31))
def test_halves_are_the_same_for_the_same_seed(labels: npt.NDArray[np.int64], seed: int) -> None:
    once, again = halves(labels, seed=seed, source="x"), halves(labels, seed=seed, source="x")
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])


def test_halves_differ_between_seeds() -> None:
    labels = np.arange(200) % 4
    assert not np.array_equal(
        halves(labels, seed=0, source="x")[0], halves(labels, seed=1, source="x")[0]
    )


def test_smallest_source_that_can_be_split() -> None:
    first, second = halves(np.arange(2 * MIN_SPLIT) % 3, seed=0, source="x")
    assert len(first) == len(second) == MIN_SPLIT


@pytest.mark.parametrize("count", [0, 1, 2 * MIN_SPLIT - 1])
def test_too_few_images_are_refused(count: int) -> None:
    with pytest.raises(DataError) as caught:
        halves(np.zeros(count, dtype=np.int64), seed=0, source="here.npz")
    assert str(caught.value).startswith(f"here.npz has {count} images")
    assert f"at least {2 * MIN_SPLIT}" in str(caught.value)
    assert "\n" not in str(caught.value)


def a_list(count: int = 30) -> ImageList:
    """Images whose pixels tell their number; its label is the number modulo 7."""
    numbers = np.arange(100, 100 + count)
    return ImageList(
        lambda number: np.full((2, 2, 3), number, dtype=np.uint8), numbers, numbers % 7, PLAIN
    )


def assert_labels_follow_images(images: ImageList) -> None:
    shown = [int(images.pixels(i)[0, 0, 0]) for i in range(len(images))]
    assert shown == images.numbers.tolist()
    assert images.labels.tolist() == [number % 7 for number in shown]


def test_first_takes_a_prefix() -> None:
    images = a_list().first(4)
    assert images.numbers.tolist() == [100, 101, 102, 103]
    assert_labels_follow_images(images)


def test_first_of_more_than_there_are_takes_all() -> None:
    assert len(a_list(5).first(9)) == 5
    assert len(a_list(5).first(0)) == 0


def test_shuffled_keeps_images_and_labels_together() -> None:
    images = a_list().shuffled(3)
    assert sorted(images.numbers) == list(range(100, 130))
    assert images.numbers.tolist() != list(range(100, 130))
    assert_labels_follow_images(images)


def test_shuffled_is_fixed_by_its_seed() -> None:
    assert np.array_equal(a_list().shuffled(3).numbers, a_list().shuffled(3).numbers)
    assert not np.array_equal(a_list().shuffled(3).numbers, a_list().shuffled(4).numbers)


def test_shuffled_leaves_the_list_as_it_was() -> None:
    images = a_list()
    images.shuffled(0)
    assert images.numbers.tolist() == list(range(100, 130))


def test_prefix_of_shuffled_images_is_a_sample() -> None:
    firsts = [int(a_list().shuffled(seed).numbers[0]) for seed in range(200)]
    assert len(set(firsts)) > 25


def test_inputs_are_preprocessed_in_order() -> None:
    inputs = a_list().inputs(2, 5)
    assert inputs.shape == (3, 3, 2, 2)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs[:, 0, 0, 0] * 255, [102, 103, 104], rtol=1e-6)


def test_fingerprint_tells_contents_order_and_borders_apart() -> None:
    one, two = np.array([1, 2]), np.array([2, 1])
    prints = {
        fingerprint("ab", one),
        fingerprint("ab", two),
        fingerprint(one, "ab"),
        fingerprint(["a", "b"], one),
        fingerprint("a", "b", one),
        fingerprint(b"ab", one),
    }
    assert len(prints) == 6
    assert fingerprint("ab", one) == fingerprint("ab", np.array([1, 2]))
