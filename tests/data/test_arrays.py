"""`.npz` data sets: what is read, and what is refused rather than guessed at."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hostile_files import damaged, hostile_arrays, npy, npz
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LABELS, TINY, make_model

from primesvt_deploy.data import arrays, open_data
from primesvt_deploy.edge.runtime.arrays import ArrayFile
from primesvt_deploy.edge.runtime.errors import ImageError, PreprocessingError
from primesvt_deploy.edge.runtime.frames import FrameSteps, read_frames
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.svit import SViT

N = 120


@pytest.fixture(scope="module")
def tiny() -> SViT:
    """One for all tests here, none of which changes it."""
    return make_model()


def pixels(count: int = N, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def some_labels(count: int = N) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % 5


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"images": pixels(), "labels": some_labels()} | arrays)
    return path


def refused(model: SViT, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_data(model, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_halves_are_search_and_held_out(tiny: SViT, tmp_path: Path) -> None:
    data = open_data(tiny, write(tmp_path / "mine.npz"))
    assert data.name == "mine"
    assert len(data.train) == 0
    assert len(data.search) == len(data.held_out) == N // 2
    assert not set(data.search.numbers) & set(data.held_out.numbers)
    for part in (data.search, data.held_out):
        for index in (0, 17):
            number = part.numbers[index]
            assert np.array_equal(part.pixels(index), pixels()[number])
            assert part.labels[index] == number % 5
    assert np.array_equal(
        data.search.inputs(0, 3),
        tiny.preprocessing.apply_batch(pixels()[data.search.numbers[:3]]),
    )


def test_train_images_are_train_alone(tiny: SViT, tmp_path: Path) -> None:
    more = pixels(7, seed=1)
    data = open_data(
        tiny, write(tmp_path / "d.npz", train_images=more, train_labels=some_labels(7))
    )
    assert len(data.train) == 7
    assert np.array_equal(np.stack([data.train.pixels(i) for i in range(7)]), more)
    assert data.train.labels.tolist() == some_labels(7).tolist()
    assert len(data.search) + len(data.held_out) == N
    assert max(*data.search.numbers, *data.held_out.numbers) < N


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_equal_bytes(tiny: SViT, tmp_path: Path, dtype: type) -> None:
    floats = open_data(tiny, write(tmp_path / "f.npz", images=(pixels() / 255).astype(dtype)))
    whole = open_data(tiny, write(tmp_path / "b.npz"))
    assert np.array_equal(floats.search.inputs(0, 60), whole.search.inputs(0, 60))
    assert floats.digest == whole.digest


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_whole_numbers_are_bytes(tiny: SViT, tmp_path: Path, dtype: type) -> None:
    floats = open_data(tiny, write(tmp_path / "f.npz", images=pixels().astype(dtype)))
    assert floats.digest == open_data(tiny, write(tmp_path / "b.npz")).digest


def test_channels_may_come_first(tiny: SViT, tmp_path: Path) -> None:
    planes = np.ascontiguousarray(pixels().transpose(0, 3, 1, 2))
    first = open_data(tiny, write(tmp_path / "f.npz", images=planes))
    assert first.digest == open_data(tiny, write(tmp_path / "l.npz")).digest


def test_labels_may_have_an_axis_of_1(tiny: SViT, tmp_path: Path) -> None:
    column = open_data(tiny, write(tmp_path / "c.npz", labels=some_labels()[:, None]))
    assert column.digest == open_data(tiny, write(tmp_path / "l.npz")).digest


def medmnist(path: Path, **counts: int) -> Path:
    """Arrays as MedMNIST names them, whose pixels tell which part they are of."""
    arrays: dict[str, Any] = {}
    for number, (part, count) in enumerate(counts.items()):
        arrays[f"{part}_images"] = np.full((count, 16, 16, 3), number, np.uint8)
        arrays[f"{part}_labels"] = some_labels(count)[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path


def test_medmnists_parts_are_train_search_and_held_out(tiny: SViT, tmp_path: Path) -> None:
    data = open_data(tiny, medmnist(tmp_path / "d.npz", train=70, val=50, test=60))
    parts = (data.train, data.search, data.held_out)
    assert [len(part) for part in parts] == [70, 50, 60]
    for number, part in enumerate(parts):
        assert {int(part.pixels(i).max()) for i in range(len(part))} == {number}
        assert np.array_equal(part.labels, some_labels(len(part)))


@pytest.mark.parametrize("part", ["val", "test"])
def test_one_part_to_report_on_is_halved(tiny: SViT, tmp_path: Path, part: str) -> None:
    data = open_data(tiny, medmnist(tmp_path / "d.npz", train=20, **{part: 101}))
    assert (len(data.train), len(data.search), len(data.held_out)) == (20, 51, 50)
    assert {int(data.search.pixels(i).max()) for i in range(51)} == {1}


def test_small_and_missing_parts_are_named(tiny: SViT, tmp_path: Path) -> None:
    path = medmnist(tmp_path / "d.npz", train=20, val=49, test=60)
    assert "val_ has 49 images and test_ 60: expected at least 50 each" in refused(tiny, path)
    assert "has no array 'images'" in refused(tiny, medmnist(tmp_path / "t.npz", train=200))
    parts = dict(np.load(medmnist(tmp_path / "l.npz", val=50, test=50)))
    del parts["test_labels"]
    np.savez(tmp_path / "l.npz", **parts)
    assert "has no array 'test_labels'" in refused(tiny, tmp_path / "l.npz")


class TestGrey:
    """A model of one channel."""

    @pytest.fixture(scope="class")
    def grey(self) -> SViT:
        return make_model(replace(TINY, in_channels=1))

    @pytest.mark.parametrize("shape", [(N, 16, 16), (N, 16, 16, 1), (N, 1, 16, 16)])
    def test_images_of_one_channel(
        self, grey: SViT, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        images = pixels()[..., 0]
        data = open_data(grey, write(tmp_path / "d.npz", images=images.reshape(shape)))
        first = images[data.search.numbers[0]]
        assert np.array_equal(data.search.pixels(0), first[..., None])
        values = (first.astype(np.float32) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(data.search.inputs(0, 1)[0, 0], values, atol=1e-6)

    @pytest.mark.parametrize(
        ("shape", "advice"),
        [
            ((N, 16, 16, 3), "convert their colours"),
            ((N, 28, 28), "resize them to 16x16"),
            ((N, 28, 28, 1), "resize them to 16x16"),
            ((N, 16), "resize them"),
        ],
    )
    def test_images_of_another_shape(
        self, grey: SViT, tmp_path: Path, shape: tuple[int, ...], advice: str
    ) -> None:
        message = refused(grey, write(tmp_path / "d.npz", images=np.zeros(shape, np.uint8)))
        assert f"images is {list(shape)}, expected [n, 16, 16] (grey) for this model" in message
        assert advice in message


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, ">i8"])
def test_integer_labels_of_any_width(tiny: SViT, tmp_path: Path, dtype: Any) -> None:
    data = open_data(tiny, write(tmp_path / "d.npz", labels=some_labels().astype(dtype)))
    assert data.search.labels.dtype == np.int64
    assert np.array_equal(data.search.labels, data.search.numbers % 5)


def test_classes_that_agree_with_the_model(tiny: SViT, tmp_path: Path) -> None:
    open_data(tiny, write(tmp_path / "d.npz", classes=np.array(LABELS)))


def test_digest_names_pixels_labels_and_split(tiny: SViT, tmp_path: Path) -> None:
    other_pixels, other_labels = pixels(), some_labels()
    other_pixels[3, 2, 1, 0] ^= 1
    other_labels[3] = 0
    digests = [
        open_data(tiny, write(tmp_path / "a.npz")).digest,
        open_data(tiny, write(tmp_path / "b.npz", images=other_pixels)).digest,
        open_data(tiny, write(tmp_path / "c.npz", labels=other_labels)).digest,
        open_data(tiny, tmp_path / "a.npz", seed=1).digest,
    ]
    assert len(set(digests)) == 4
    assert open_data(tiny, tmp_path / "a.npz").digest == digests[0]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (pixels().transpose(0, 3, 2, 1)[:, :, :8], "[120, 3, 8, 16]"),
        (np.zeros((N, 32, 32, 3), np.uint8), "[120, 32, 32, 3]"),
        (pixels()[..., :1], "[120, 16, 16, 1]"),
        (pixels()[..., 0], "[120, 16, 16]"),
        (np.uint8(3), "[]"),
    ],
)
def test_images_of_another_shape(tiny: SViT, tmp_path: Path, images: Any, found: str) -> None:
    message = refused(tiny, write(tmp_path / "d.npz", images=images))
    assert f"images is {found}, expected [n, 16, 16, 3]" in message
    assert "channels last" in message


@pytest.mark.parametrize("dtype", ["uint16", "int8", "int64", "bool", "complex64", "<U3"])
def test_images_of_another_type(tiny: SViT, tmp_path: Path, dtype: str) -> None:
    message = refused(tiny, write(tmp_path / "d.npz", images=pixels().astype(dtype)))
    assert f"images is {np.dtype(dtype)}, expected uint8 (0..255) or float (0..1)" in message


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
def test_floats_that_are_neither_shares_nor_bytes(tiny: SViT, tmp_path: Path, value: float) -> None:
    images = pixels() / 255
    images[5, 4, 3, 2] = value
    message = refused(tiny, write(tmp_path / "d.npz", images=images))
    assert "expected 0 to 1, or whole numbers from 0 to 255" in message
    assert "pass pixels before normalisation" in message


@pytest.mark.parametrize(("label", "span"), [(-1, "-1 to 4"), (5, "0 to 5"), (2**40, "0 to 109")])
def test_labels_out_of_range(tiny: SViT, tmp_path: Path, label: int, span: str) -> None:
    labels = some_labels()
    labels[7] = label
    message = refused(tiny, write(tmp_path / "d.npz", labels=labels))
    assert f"labels run from {span}" in message
    assert "classes 0 to 4" in message


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (some_labels().astype(np.float32), "float32 [120]"),
        (np.eye(5, dtype=int)[some_labels()], "int64 [120, 5]"),
        (some_labels()[:-1], "int64 [119]"),
        (np.eye(5, dtype=np.uint8)[some_labels()], "uint8 [120, 5]"),
        (some_labels() > 2, "bool [120]"),
        (np.array(LABELS)[some_labels()], "<U3 [120]"),
    ],
)
def test_labels_that_are_not_one_integer_an_image(
    tiny: SViT, tmp_path: Path, labels: Any, found: str
) -> None:
    message = refused(tiny, write(tmp_path / "d.npz", labels=labels))
    assert f"labels is {found}, expected 120 integers" in message
    assert ("a class each, not one flag for each class" in message) == ("[120, 5]" in message)


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_arrays_are_named(tiny: SViT, tmp_path: Path, missing: str) -> None:
    arrays = {"images": pixels(), "labels": some_labels(), "other": pixels(2)}
    del arrays[missing]
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    message = refused(tiny, path)
    assert f"has no array '{missing}'" in message
    assert str(sorted(arrays)) in message


def test_train_images_need_labels(tiny: SViT, tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", train_images=pixels(3))
    assert "has no array 'train_labels'" in refused(tiny, path)


def test_train_arrays_are_checked_too(tiny: SViT, tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", train_images=pixels(3), train_labels=np.array([0, 1, 9]))
    assert "train_labels run from 0 to 9" in refused(tiny, path)
    path = write(
        tmp_path / "e.npz",
        train_images=pixels(3).transpose(0, 3, 1, 2)[..., :8],
        train_labels=some_labels(3),
    )
    assert "train_images is [3, 3, 16, 8]" in refused(tiny, path)


@pytest.mark.parametrize(
    "classes",
    [
        np.array(LABELS[::-1]),
        np.array(LABELS[:4]),
        np.array([*LABELS, "fox"]),
        np.array("ant"),
        np.arange(5),
    ],
)
def test_classes_that_are_not_the_models(tiny: SViT, tmp_path: Path, classes: Any) -> None:
    message = refused(tiny, write(tmp_path / "d.npz", classes=classes))
    assert "order and names must agree" in message
    assert "tiny has ['ant', 'bee', 'cat']..." in message


def test_too_few_images(tiny: SViT, tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", images=pixels(99), labels=some_labels(99))
    assert "has 99 images" in refused(tiny, path)
    path = write(tmp_path / "e.npz", images=pixels(0), labels=some_labels(0))
    assert "has 0 images" in refused(tiny, path)


class RunsACommand:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo ran > '{self.marker}'",)


@pytest.mark.parametrize("name", ["images", "labels", "classes"])
def test_pickled_objects_are_refused_and_not_made(tiny: SViT, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = write(tmp_path / "d.npz", **{name: np.array([RunsACommand(marker)], dtype=object)})
    message = refused(tiny, path)
    assert f"is not a complete .npz of plain arrays ({name}: it holds '|O'" in message
    assert not marker.exists()


def test_what_is_not_needed_is_not_opened(tiny: SViT, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    unused = np.array([RunsACommand(marker)], dtype=object)
    data = open_data(tiny, write(tmp_path / "d.npz", unused=unused))
    assert data.digest == open_data(tiny, write(tmp_path / "e.npz")).digest
    assert not marker.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_at_any_length(tiny: SViT, tmp_path: Path, save: Any) -> None:
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    save(whole, images=pixels(), labels=some_labels())
    content = whole.read_bytes()
    for length in [*range(8), *range(8, len(content), len(content) // 40), len(content) - 1]:
        cut.write_bytes(content[:length])
        assert "is not a complete .npz" in refused(tiny, cut)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bytes_never_give_another_error(tiny: SViT, tmp_path: Path, save: Any) -> None:
    path = tmp_path / "d.npz"
    save(path, images=pixels(), labels=some_labels())
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refusals = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in (*generator.integers(0, 300, 2), *generator.integers(0, len(content), 4)):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            open_data(tiny, path)
        except DataError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 30


def test_single_array_under_the_name_of_an_npz(tiny: SViT, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", pixels())
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    assert "is not a complete .npz" in refused(tiny, tmp_path / "d.npz")


def test_zip_of_other_files_under_the_name_of_an_npz(tiny: SViT, tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "no array")
        archive.writestr("labels", "no array")
    refused(tiny, path)


@pytest.mark.parametrize("parts", [{}, {"train_images": pixels(), "train_labels": some_labels()}])
def test_array_too_large_for_memory(
    tiny: SViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    """Two arrays are joined in a copy, so they need twice their size."""
    path = write(tmp_path / "d.npz", **parts)
    needed = pixels().nbytes * (4 if parts else 1)
    for free in (needed - 1, needed):
        monkeypatch.setattr(arrays, "available_memory", partial(int, free))
        if free == needed:
            open_data(tiny, path)
        else:
            assert "does not fit into memory: pass an ImageFolder" in refused(tiny, path)


def test_arrays_of_the_input_size_are_neither_enlarged_nor_cropped(
    tiny: SViT, tmp_path: Path
) -> None:
    """Above 64 pixels families resize before they crop; arrays have that behind them."""
    enlarging = replace(tiny, preprocessing=replace(tiny.preprocessing, resize=20))
    images = np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(120) % 5)
    data = open_data(enlarging, tmp_path / "d.npz")
    first = images[data.search.numbers[0]]
    expected = tiny.preprocessing.apply(first)
    np.testing.assert_array_equal(data.search.inputs(0, 1)[0], expected)


def test_each_damage_is_one_line(
    tiny: SViT, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = npz([("images.npy", npy(pixels())), ("labels.npy", npy(some_labels()))])
    path, read = tmp_path / "d.npz", 0

    @settings(derandomize=True, deadline=None, max_examples=150)
    @given(seed=st.integers(0, 2**32))
    def holds(seed: int) -> None:
        nonlocal read
        path.write_bytes(damaged(whole, Random(seed))[1])
        try:
            open_data(tiny, path)
        except DataError as error:
            assert str(error).startswith(str(path)) and str(error).isprintable()
        else:
            read += 1

    holds()
    for _, content in hostile_arrays(1, 30):
        path.write_bytes(content)
        assert len(refused(tiny, path)) < 1000
    assert read < 40
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", ["images", "frames"])
def test_a_shape_that_does_not_fit_is_refused_before_it_is_read(
    tiny: SViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ArrayFile, "read", never)
    large = np.zeros((N, 64, 64, 3), np.uint8)
    if what == "images":
        assert "resize them to 16x16" in refused(tiny, write(tmp_path / "d.npz", images=large))
        return
    np.savez(tmp_path / "d.npz", frames=large)
    with pytest.raises(PreprocessingError, match="integrate the events to that many frames"):
        read_frames(tmp_path / "d.npz", FrameSteps(3, 2, 16, 16))


def test_what_is_no_file_is_not_opened(tiny: SViT, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.npz")
    assert "(it is a pipe (FIFO))" in refused(tiny, tmp_path / "d.npz")
    with pytest.raises(ImageError, match=r"it is a pipe \(FIFO\)"):
        read_frames(tmp_path / "d.npz")
