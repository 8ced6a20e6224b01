from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.measure.accuracy import Predictions
from primesvt_deploy.pipeline.report_content import held_out
from primesvt_deploy.pipeline.report_content.held_out import confused_pairs, lost_images
from primesvt_deploy.pipeline.report_content.pictures import picture

STEPS = Preprocessing(
    height=16, width=16, resize=16, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
)


def predicted(classes: list[int], probabilities: list[float] | None = None) -> Predictions:
    given = probabilities or [0.5] * len(classes)
    return Predictions(np.asarray(classes), np.asarray(given, dtype=np.float32))


def listed(pixels: np.ndarray, labels: list[int], steps: object = STEPS) -> ImageList:
    return ImageList(lambda i: pixels[i], np.arange(len(pixels)), np.asarray(labels), steps)  # type: ignore[arg-type]


def opened(url: str) -> Image.Image:
    kind, content = url.split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert kind == f"data:image/{str(image.format).lower()}"
    return image


def test_every_image_is_in_one_pair() -> None:
    labels = np.array([0, 0, 1, 2])
    pairs = confused_pairs(labels, predicted([0, 1, 1, 2]), predicted([0, 0, 1, 0]), 3)
    found = {(p.label, p.predicted): (p.dense, p.shipped) for p in pairs}
    assert found == {(0, 0): (1, 2), (0, 1): (1, 0), (1, 1): (1, 1), (2, 0): (0, 1), (2, 2): (1, 0)}


def test_of_many_classes_the_frequent_confusions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_PAIRS", 1)
    labels = np.array([0, 0, 0, 1, 2])
    dense, shipped = predicted([0, 1, 1, 2, 2]), predicted([0, 0, 1, 1, 0])
    few = confused_pairs(labels, dense, shipped, 100)
    many = confused_pairs(labels, dense, shipped, 101)
    assert [(p.label, p.predicted) for p in many] == [(0, 0), (0, 1), (1, 1), (2, 2)]
    assert {p for p in many} < {p for p in few} and len(few) == 6


def test_lost_images_are_those_that_only_dense_gets_right_the_surest_first() -> None:
    pixels = np.arange(6 * 16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(6, 16, 16, 3)
    images = listed(pixels, [0, 1, 0, 1, 0, 1])
    dense = predicted([0, 1, 0, 0, 0, 1], [0.6, 0.9, 0.99, 0.98, 0.7, 0.8])
    shipped = predicted([1, 0, 0, 0, 0, 0], [0.51, 0.52, 0.9, 0.9, 0.9, 0.53])
    found = lost_images(images, dense, shipped, ("a\nb", "c"))
    assert [lost.index for lost in found] == [1, 5, 0]
    assert [lost.dense_probability for lost in found] == pytest.approx([0.9, 0.8, 0.6])
    assert [lost.shipped_probability for lost in found] == pytest.approx([0.52, 0.53, 0.51])
    assert [(lost.label, lost.predicted) for lost in found][1:] == [("c", "a\\nb"), ("a\\nb", "c")]
    for lost in found:
        assert np.array_equal(np.asarray(opened(lost.image)), pixels[lost.index])


def test_no_more_than_a_dozen() -> None:
    pixels = np.zeros((40, 16, 16, 3), np.uint8)
    found = lost_images(
        listed(pixels, [0] * 40), predicted([0] * 40), predicted([1] * 40), ("a", "b")
    )
    assert len(found) == 12


def test_a_large_photograph_is_small_in_the_report() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), dtype=np.uint8)
    steps = replace(STEPS, height=256, width=256, resize=256)
    url = picture(listed(noise, [0], steps), 0, most=128)
    assert opened(url).size == (128, 128) and len(url) < 30_000


def test_a_grey_image_stays_grey() -> None:
    pixels = np.full((1, 16, 16, 1), 77, np.uint8)
    image = opened(
        picture(listed(pixels, [0], replace(STEPS, mean=(0.5,), std=(0.5,))), 0, most=64)
    )
    assert image.mode == "L" and image.getpixel((3, 3)) == 77


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "RGB"), (3, "RGB"), (4, "L")])
def test_event_frames_are_shown_as_their_mean(channels: int, mode: str) -> None:
    frames = np.zeros((1, 4, channels, 8, 10), np.float32)
    frames[0, :2, 0, 1, 2] = 3.0
    frames[0, 0, 0, 5, 5] = 3.0
    image = opened(picture(listed(frames, [0], FrameSteps(4, channels, 8, 10)), 0, most=64))
    assert (image.mode, image.size) == (mode, (10, 8))
    brightest, half, black = (np.max(image.getpixel(p)) for p in ((2, 1), (5, 5), (0, 0)))
    assert (brightest, black) == (255, 0) and abs(int(half) - 127.5) < 1


def test_frames_without_an_event_are_black() -> None:
    frames = np.zeros((1, 2, 2, 8, 8), np.uint8)
    image = opened(picture(listed(frames, [0], FrameSteps(2, 2, 8, 8)), 0, most=64))
    assert image.getextrema() == ((0, 0),) * 3
