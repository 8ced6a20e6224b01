"""ImageFolders: which images make up which split, and what is refused."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import LABELS, TINY, make_model

from primesvt_deploy.data import DataSet, ImageList, open_data
from primesvt_deploy.errors import DataError, ImageError
from primesvt_deploy.model.svit import SViT


@pytest.fixture(scope="module")
def tiny() -> SViT:
    """One for all tests here, none of which changes it."""
    return make_model()


def write_images(
    root: Path, per_class: int, *, classes: Iterable[str] = LABELS, suffix: str = ".png"
) -> None:
    """Images of one colour: red tells the class, green the number."""
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = np.empty((16, 16, 3), np.uint8)
            pixels[:] = (LABELS.index(name) * 20 if name in LABELS else 200, number, 7)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, format="BMP" if suffix == ".bmp" else "PNG")
            (folder / f"{number:03}{suffix}").write_bytes(file.getvalue())


def refused(model: SViT, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_data(model, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def seen(images: ImageList) -> list[tuple[int, int]]:
    """Class and number of each image, as its pixels tell; its label must agree."""
    found = []
    for index in range(len(images)):
        red, green, _ = images.pixels(index)[0, 0].tolist()
        assert red == images.labels[index] * 20
        found.append((red // 20, green))
    return found


def assert_disjoint(data: DataSet) -> None:
    everything = [int(n) for part in (data.train, data.search, data.held_out) for n in part.numbers]
    assert len(everything) == len(set(everything))


def test_class_directories_alone_are_halved(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 21)
    data = open_data(tiny, tmp_path / "photos")
    assert data.name == "photos"
    assert len(data.train) == 0
    search, held_out = seen(data.search), seen(data.held_out)
    assert sorted(search + held_out) == [(c, n) for c in range(5) for n in range(21)]
    for part in (search, held_out):
        counts = np.bincount([label for label, _ in part])
        assert set(counts.tolist()) <= {10, 11}
    assert_disjoint(data)


def test_images_are_preprocessed_for_the_model(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    split = open_data(tiny, tmp_path).search
    expected = tiny.preprocessing.apply(split.pixels(3))
    assert np.array_equal(split.inputs(3, 4)[0], expected)


@pytest.mark.parametrize("evaluation", ["val", "validation", "test"])
def test_train_next_to_an_evaluation_directory(tiny: SViT, tmp_path: Path, evaluation: str) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / evaluation, 20)
    data = open_data(tiny, tmp_path)
    assert len(data.train) == 20
    assert sorted(seen(data.train)) == [(c, n) for c in range(5) for n in range(4)]
    assert len(data.search) == len(data.held_out) == 50
    both = seen(data.search) + seen(data.held_out)
    assert sorted(both) == [(c, n) for c in range(5) for n in range(20)]
    assert_disjoint(data)


@pytest.mark.parametrize("with_train", [False, True])
def test_two_evaluation_directories_are_search_and_held_out(
    tiny: SViT, tmp_path: Path, with_train: bool
) -> None:
    write_images(tmp_path / "val", 10)
    write_images(tmp_path / "test", 12)
    if with_train:
        write_images(tmp_path / "train", 3)
    data = open_data(tiny, tmp_path)
    assert sorted(seen(data.search)) == [(c, n) for c in range(5) for n in range(10)]
    assert sorted(seen(data.held_out)) == [(c, n) for c in range(5) for n in range(12)]
    assert len(data.train) == (15 if with_train else 0)
    assert_disjoint(data)


def test_evaluation_directory_needs_no_train_next_to_it(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path / "test", 20)
    data = open_data(tiny, tmp_path)
    assert (len(data.train), len(data.search), len(data.held_out)) == (0, 50, 50)


def test_classes_may_be_missing_and_are_matched_by_name(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 60, classes=["elk", "bee"])
    data = open_data(tiny, tmp_path)
    assert set(data.search.labels.tolist()) == {1, 4}
    seen(data.search)


def test_directories_may_have_the_names_of_synsets(tmp_path: Path) -> None:
    labels = tuple(f"n0{i}440764 {name}, Latin {name}" for i, name in enumerate(LABELS))
    model = replace(make_model(), labels=labels)
    write_images(tmp_path / "val", 20)
    for name, label in zip(LABELS, labels, strict=True):
        (tmp_path / "val" / name).rename(tmp_path / "val" / label[:9])
    seen(open_data(model, tmp_path).search)
    (tmp_path / "val" / labels[2][:9]).rename(tmp_path / "val" / labels[2])
    seen(open_data(model, tmp_path).search)
    (tmp_path / "val" / labels[2]).rename(tmp_path / "val" / "n99999999")
    assert "does not have (n99999999)" in refused(model, tmp_path)


def test_a_synset_of_two_classes_names_neither(tmp_path: Path) -> None:
    labels = tuple(f"n01440764 {name}" for name in LABELS)
    write_images(tmp_path, 20, classes=["n01440764"])
    assert "(n01440764)" in refused(replace(make_model(), labels=labels), tmp_path)


def test_other_files_are_left_alone(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    (tmp_path / "README.md").write_text("photos")
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"x")
    assert len(open_data(tiny, tmp_path).search) == 50


@pytest.mark.parametrize("suffix", [".PNG", ".bmp"])
def test_image_suffixes(tiny: SViT, tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, 20, suffix=suffix)
    seen(open_data(tiny, tmp_path).search)


def test_images_are_those_that_a_training_script_loads(tiny: SViT, tmp_path: Path) -> None:
    """The files that torchvision's ImageFolder lists, and what its loader makes of each."""
    from torchvision.datasets import ImageFolder

    write_images(tmp_path, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned: the loader does not
    pixels = np.random.default_rng(0).integers(0, 256, (24, 18, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    photo.save(tmp_path / "cat" / "phone.jpg", exif=exif)
    photo.save(tmp_path / "cat" / "turned.png", exif=exif)
    photo.convert("CMYK").save(tmp_path / "bee" / "print.JPEG", progressive=True)
    photo.convert("RGBA").save(tmp_path / "bee" / "clear.webp")
    photo.save(tmp_path / "ant" / "scan.tif", compression="tiff_lzw")
    photo.save(tmp_path / "ant" / "scan.tiff", tiffinfo={0x0112: 6})
    photo.convert("L").save(tmp_path / "dog" / "grey.pgm")
    photo.save(tmp_path / "dog" / "none.gif")
    reference = ImageFolder(str(tmp_path))
    assert reference.classes == list(LABELS)
    data = open_data(tiny, tmp_path)
    found = {
        int(number): (split.pixels(i), int(split.labels[i]))
        for split in (data.search, data.held_out)
        for i, number in enumerate(split.numbers)
    }
    assert sorted(found) == list(range(len(reference)))
    for number, (image, label) in found.items():
        expected, of_class = reference[number]
        np.testing.assert_array_equal(image, np.asarray(expected))
        assert label == of_class


def test_a_grey_model_gets_what_torchvision_makes_grey(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Grayscale

    write_images(tmp_path, 20)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 18, 4), dtype=np.uint8)
    for number, mode in enumerate(("RGB", "L", "P", "1", "LA", "RGBA", "CMYK")):
        suffix = ".tif" if mode == "CMYK" else ".png"
        Image.fromarray(pixels).convert(mode).save(tmp_path / "cat" / f"x{number}{suffix}")
    model = make_model(replace(TINY, in_channels=1))
    reference = ImageFolder(str(tmp_path), transform=Grayscale())
    data = open_data(model, tmp_path)
    count = 0
    for split in (data.search, data.held_out):
        for index, number in enumerate(split.numbers):
            expected, _ = reference[int(number)]
            np.testing.assert_array_equal(split.pixels(index)[..., 0], np.asarray(expected))
            assert split.inputs(index, index + 1).shape == (1, 1, 16, 16)
            count += 1
    assert count == 107


def test_split_is_fixed_by_the_seed(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    once, again, other = (open_data(tiny, tmp_path, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(once.search.numbers, again.search.numbers)
    assert once.digest == again.digest
    assert not np.array_equal(once.search.numbers, other.search.numbers)
    assert once.digest != other.digest


def test_digest_changes_with_the_files(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 21)
    before = open_data(tiny, tmp_path).digest
    (tmp_path / "ant" / "000.png").rename(tmp_path / "ant" / "other.png")
    renamed = open_data(tiny, tmp_path).digest
    (tmp_path / "ant" / "other.png").unlink()
    assert len({before, renamed, open_data(tiny, tmp_path).digest}) == 3


def test_unknown_class(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 20, classes=[*LABELS, "fox"])
    message = refused(tiny, tmp_path)
    assert "has 1 classes that tiny does not have (fox)" in message
    assert "its classes are ant, bee, cat" in message


def test_unknown_class_in_train(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path / "test", 20)
    write_images(tmp_path / "train", 1, classes=["gnu"])
    assert "(gnu)" in refused(tiny, tmp_path)


@pytest.mark.parametrize("where", [".", "val"])
def test_no_class_directories(tiny: SViT, tmp_path: Path, where: str) -> None:
    folder = tmp_path / where
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16)).save(folder / "photo.png")
    assert "has no class directories: expected one a class" in refused(tiny, tmp_path)


def test_class_directories_without_images(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 0)
    assert "has 0 images in its class folders: expected files ending with .bmp, .jpeg" in (
        refused(tiny, tmp_path)
    )


def test_a_class_without_images_is_named(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path / "val", 20)
    write_images(tmp_path / "train", 2)
    for image in (tmp_path / "train" / "cat").iterdir():
        image.rename(image.with_suffix(".heic"))
    assert f"{tmp_path / 'train' / 'cat'}: no image in it" in refused(tiny, tmp_path)


def test_too_few_images_to_halve(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 19)
    assert "has 95 images to search and report on: expected at least 100" in refused(tiny, tmp_path)


@pytest.mark.parametrize(("val", "test"), [(9, 10), (10, 9), (2, 1)])
def test_too_few_images_in_one_of_two_directories(
    tiny: SViT, tmp_path: Path, val: int, test: int
) -> None:
    write_images(tmp_path / "val", val)
    write_images(tmp_path / "test", test)
    message = refused(tiny, tmp_path)
    assert f"val/ has {5 * val} images and test/ {5 * test}" in message


def test_missing_path(tiny: SViT, tmp_path: Path) -> None:
    message = refused(tiny, tmp_path / "nowhere")
    assert "no data at" in message
    assert "ImageFolder" in message


def test_file_that_is_no_npz(tiny: SViT, tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    assert "neither a directory of class folders nor an .npz" in refused(
        tiny, tmp_path / "photos.zip"
    )


def test_model_without_data_of_its_own_asks_for_some(tiny: SViT) -> None:
    with pytest.raises(DataError, match="tiny comes with no data: pass --data"):
        open_data(tiny)


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n cut off"])
def test_unreadable_image_is_named_when_it_is_needed(
    tiny: SViT, tmp_path: Path, content: bytes
) -> None:
    write_images(tmp_path, 20)
    (tmp_path / "cat" / "007.png").write_bytes(content)
    data = open_data(tiny, tmp_path)
    with pytest.raises(ImageError) as caught:
        for part in (data.search, data.held_out):
            part.inputs(0, len(part))
    assert str(tmp_path / "cat" / "007.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dangling_link_among_the_images(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "moved" / "lost.png")
    message = refused(tiny, tmp_path)
    assert "lost.png cannot be read" in message


@pytest.mark.parametrize("kind", ["a pipe (FIFO)", "a socket", "a character device"])
def test_what_is_no_file_among_the_images(tiny: SViT, tmp_path: Path, kind: str) -> None:
    write_images(tmp_path, 20)
    path = tmp_path / "ant" / "odd.jpg"
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "a pipe (FIFO)":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert f"odd.jpg cannot be read (it is {kind})" in refused(tiny, tmp_path)


def test_train_alone_is_nothing_to_report_on(tiny: SViT, tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "train", 3)
    assert "has train/ and none of val/, validation/, test/" in refused(tiny, tmp_path / "photos")
