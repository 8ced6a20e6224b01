"""Preprocessing: Pillow's resizing whatever its version, torchvision's rounding, validation."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from PIL import Image

from primesvt_deploy.edge.runtime.errors import DeployError, PreprocessingError
from primesvt_deploy.edge.runtime.preprocess import Preprocessing, resize

Array = npt.NDArray[np.uint8]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13


def noise(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def make(height: int, width: int, size: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(height, width, size, interpolation, MEAN, STD)


def pillow_resize(image: Array, height: int, width: int, interpolation: str) -> Array:
    resized = Image.fromarray(image).resize((width, height), FILTERS[interpolation])
    return np.asarray(resized)


def expected(image: Array, p: Preprocessing) -> npt.NDArray[np.float32]:
    """Resize(resize), CenterCrop(height, width), ToTensor and Normalize, written out."""
    h, w = image.shape[:2]
    if w <= h:
        new_w, new_h = p.resize, int(p.resize * h / w)
    else:
        new_w, new_h = int(p.resize * w / h), p.resize
    image = pillow_resize(image, new_h, new_w, p.interpolation)
    top, left = round((new_h - p.height) / 2.0), round((new_w - p.width) / 2.0)
    image = image[top : top + p.height, left : left + p.width]
    x = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = np.array(p.mean, np.float32), np.array(p.std, np.float32)
    result: npt.NDArray[np.float32] = (x - mean[:, None, None]) / std[:, None, None]
    return result


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("largest", "result"), [(9, 120), (80, 80), (400, 60), (60, 300)])
def test_resize_is_pillows(interpolation: str, largest: int, result: int) -> None:
    rng = np.random.default_rng(largest)
    compared = 0
    for number in range(80):
        h, w = rng.integers(1, largest, 2).tolist()
        height, width = rng.integers(1, result, 2).tolist()
        if number % 4 == 0:  # close to where Pillow 13 changes the order of its passes
            width = max(1, w - (h - height) // 2 + int(rng.integers(-2, 3)))
        if OLD_PILLOW and height < h and 2 * (w - width) < h - height:
            continue  # another order of passes
        image = noise(rng, h, w, 3)
        if number % 2:
            image = image // 128 * 255  # overshoots are clipped between the passes
        resized = resize(image, height, width, interpolation)
        np.testing.assert_array_equal(resized, pillow_resize(image, height, width, interpolation))
        compared += 1
    assert compared > 20


def test_every_version_of_pillow_gives_the_same_pixels() -> None:
    """Those of Pillow 13, to which another test holds them, tall images among them."""
    rng = np.random.default_rng(7)
    found = hashlib.sha256()
    for _ in range(60):
        h, w, height, width = rng.integers(1, 150, 4).tolist()
        image = noise(rng, h, w, 3)
        for interpolation in FILTERS:
            found.update(resize(image, height, width, interpolation).tobytes())
    assert found.hexdigest() == "6367c37d00ac7eeec9e6d86efbebb52fe51adb1bcc0f205521dd9fc9be6bd3f1"


def test_pillow_is_needed_where_an_image_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    image = noise(np.random.default_rng(0), 9, 9, 3)
    assert make(8, 8, 9).apply(image).shape == (3, 8, 8)
    with pytest.raises(PreprocessingError, match=r"no Pillow to resize .*; pip install pillow$"):
        make(8, 8, 8).apply(image)


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = noise(np.random.default_rng(0), 7, 9, 3)
    np.testing.assert_array_equal(resize(image, 7, 9, "bicubic"), image)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("input_size", [(32, 32, 32), (24, 20, 27), (33, 33, 40), (1, 1, 1)])
def test_apply_does_what_torchvision_does(
    interpolation: str, input_size: tuple[int, int, int]
) -> None:
    p = make(*input_size, interpolation)
    rng = np.random.default_rng(1)
    sizes = [(32, 32), (27, 27), (40, 33), (33, 48), (61, 50), (50, 61), (5, 8), (97, 83)]
    sizes += [(h, w) for h, w in rng.integers(10, 90, (10, 2)).tolist() if h <= 2 * w]
    for h, w in sizes:
        image = noise(rng, h, w, 3)
        result = p.apply(image)
        assert result.dtype == np.float32
        assert result.shape == (3, p.height, p.width)
        np.testing.assert_array_equal(result, expected(image, p))


@pytest.mark.skipif(OLD_PILLOW, reason="Pillow before 13 resizes tall images in another order")
def test_apply_to_tall_images() -> None:
    rng = np.random.default_rng(2)
    for h, w in [(200, 50), (301, 100), (90, 20)]:
        image = noise(rng, h, w, 3)
        np.testing.assert_array_equal(
            make(16, 16, 18).apply(image), expected(image, make(16, 16, 18))
        )


def test_an_image_of_the_input_size_is_only_normalised() -> None:
    image = noise(np.random.default_rng(3), 32, 32, 3)
    result = Preprocessing(32, 32, 32, "bicubic", (0.0,) * 3, (1.0,) * 3).apply(image)
    np.testing.assert_array_equal(result, image.transpose(2, 0, 1) / np.float32(255))


def test_crop_offsets_round_halves_to_even() -> None:
    # 35 - 32 = 3 rows to drop: 1.5 becomes 2; 33 - 32 = 1 column: 0.5 becomes 0.
    image = noise(np.random.default_rng(4), 35, 33, 3)
    p = Preprocessing(32, 32, 33, "bilinear", (0.0,) * 3, (1.0,) * 3)
    expected_crop = image[2:34, 0:32].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(p.apply(image), expected_crop)


@pytest.mark.parametrize("size", [(32, 32), (40, 32), (48, 50), (20, 31)])
def test_batches_equal_single_images(size: tuple[int, int]) -> None:
    images = noise(np.random.default_rng(5), 7, *size, 3)
    for p in (make(32, 32, 32), make(24, 28, 36, "bilinear")):
        batch = p.apply_batch(images)
        assert batch.dtype == np.float32 and batch.shape == (7, 3, p.height, p.width)
        np.testing.assert_array_equal(batch, np.stack([p.apply(image) for image in images]))


def test_an_empty_batch_and_views() -> None:
    p = make(8, 8, 8)
    assert p.apply_batch(np.empty((0, 9, 9, 3), np.uint8)).shape == (0, 3, 8, 8)
    images = noise(np.random.default_rng(6), 20, 22, 3)
    view = images[::-2, ::2]
    np.testing.assert_array_equal(p.apply(view), p.apply(view.copy()))


def test_pixels_are_cropped_alone() -> None:
    images = noise(np.random.default_rng(7), 3, 40, 50, 3)
    p = make(32, 28, 36, "bilinear")
    taken = replace(p, pixels=True)
    result = taken.apply_batch(images)
    assert result.dtype == np.uint8 and result.shape == (3, 3, 32, 28)
    np.testing.assert_array_equal(result, p.crop_batch(images).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(result[0], taken.apply(images[0]))


def test_one_channel_is_each_of_three() -> None:
    rng = np.random.default_rng(2)
    image = noise(rng, 30, 41, 1)
    for pixels in (False, True):
        three = replace(make(16, 14, 20), mean=(0.3,) * 3, std=(0.2,) * 3, pixels=pixels)
        one = replace(three, mean=(0.3,), std=(0.2,))
        assert (one.channels, three.channels) == (1, 3)
        assert one.sample_bytes == 16 * 14
        found = one.apply(image)
        assert found.shape == (1, 16, 14)
        np.testing.assert_array_equal(found, three.apply(np.repeat(image, 3, axis=2))[:1])
        assert Preprocessing.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(PreprocessingError, match=r"expected grey samples uint8 \[H, W, 1\]"):
        one.apply(np.repeat(image, 3, axis=2))


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floats_are_refused_with_advice(scale: float) -> None:
    steps = make(16, 16, 16)
    image = noise(np.random.default_rng(3), 16, 16, 3).astype(np.float32) * (scale / 255)
    for call in (steps.apply, lambda x: steps.apply_batch(x[None]), lambda x: steps.normalise([x])):
        with pytest.raises(PreprocessingError, match="expected RGB samples uint8"):
            call(image)
    with pytest.raises(PreprocessingError, match=r"np.rint\(255 \* image\)"):
        steps.normalise(image[None])


def test_only_what_takes_pixels_says_so() -> None:
    taken = replace(make(32, 32, 36), pixels=True)
    assert taken.to_dict() == {**GOOD, "pixels": True}
    assert Preprocessing.from_dict(taken.to_dict()) == taken
    assert Preprocessing.from_dict({**GOOD, "pixels": False}) == make(32, 32, 36)
    with pytest.raises(PreprocessingError, match="pixels: found 1, expected true or false"):
        Preprocessing.from_dict({**GOOD, "pixels": 1})


def test_dict_round_trip_through_json() -> None:
    p = make(224, 200, 256, "bilinear")
    assert Preprocessing.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    assert set(p.to_dict()) == {"height", "width", "resize", "interpolation", "mean", "std"}
    assert hash(p) == hash(Preprocessing.from_dict(p.to_dict()))


GOOD = make(32, 32, 36).to_dict()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"height": 0}, "height: found 0"),
        ({"width": 32.0}, "width: found 32.0"),
        ({"height": True}, "height: found True"),
        ({"resize": 10**400}, "resize"),
        ({"resize": 31}, "resize: found 31, expected at least height and width"),
        ({"interpolation": "nearest"}, "interpolation: found 'nearest', expected bilinear or"),
        ({"interpolation": ["bicubic"]}, "interpolation"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean"),
        ({"mean": "abc"}, "mean"),
        ({"mean": [10**400, 0, 0]}, "mean"),
        ({"std": [0.5, 0.5, 0.0]}, "std"),
        ({"std": [0.5, 0.5, -1.0]}, "std"),
        ({"std": [0.5, None, 0.5]}, "std"),
        ({"std": [float("inf"), 1.0, 1.0]}, "std"),
        ({"crop": 3}, "preprocessing: found"),
        ({"std": [0.5]}, "mean and std: found 3 and 1 numbers"),
    ],
)
def test_invalid_values(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.from_dict(GOOD | changes)
    text = str(caught.value)
    assert isinstance(caught.value, DeployError)
    assert text.startswith(names) and text.isprintable() and "expected" in text


@pytest.mark.parametrize("d", [{}, {"height": 3}, [1, 2], None, "x"])
def test_from_dict_of_something_else(d: Any) -> None:
    with pytest.raises(PreprocessingError, match="preprocessing: found"):
        Preprocessing.from_dict(d)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_images_of_another_kind(image: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"found .*, expected RGB samples uint8 \[H, W, 3"):
        make(8, 8, 8).apply(image)


def test_a_strip_that_would_become_huge_is_refused() -> None:
    with pytest.raises(PreprocessingError, match="20000x1 pixels"):
        make(224, 224, 256).apply(np.zeros((1, 20000, 3), np.uint8))
