"""The CIFAR-10 images that come with the package are what the package says they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from small_models import make_model

from primesvt_deploy.data import open_data
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.load import load
from primesvt_deploy.model.reference_models import bundled_data
from primesvt_deploy.model.svit import SViT

TRAIN, SEARCH, HELD_OUT = 0, 1, 2


@pytest.fixture(scope="module")
def reference() -> SViT:
    return load()


@pytest.fixture(scope="module")
def arrays() -> Mapping[str, np.ndarray]:
    with np.load(bundled_data("cifar10")) as file:
        return dict(file)


def test_file_is_small_enough_for_a_wheel() -> None:
    assert bundled_data("cifar10").stat().st_size <= 8_000_000


def test_splits_have_every_class_alike(arrays: Mapping[str, np.ndarray]) -> None:
    for code, per_class in ((TRAIN, 500), (SEARCH, 500), (HELD_OUT, 500)):
        labels = arrays["labels"][arrays["split"] == code]
        assert np.bincount(labels, minlength=10).tolist() == [per_class] * 10
    assert set(arrays["split"].tolist()) == {TRAIN, SEARCH, HELD_OUT}
    assert np.isin(arrays["split"], (SEARCH, HELD_OUT)).sum() == 10_000


def test_every_image_is_a_jpeg_of_its_own(arrays: Mapping[str, np.ndarray]) -> None:
    blob, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
    assert len(offsets) == len(arrays["labels"]) + 1 == 15_001
    assert (offsets[0], offsets[-1]) == (0, len(blob))
    files = [blob[start:stop] for start, stop in pairwise(offsets)]
    assert all(file.startswith(b"\xff\xd8") and file.endswith(b"\xff\xd9") for file in files)
    of_split = [
        {file for file, code in zip(files, arrays["split"], strict=True) if code == wanted}
        for wanted in (TRAIN, SEARCH, HELD_OUT)
    ]
    train, search, held_out = of_split
    assert not search & held_out
    assert not train & (search | held_out)


def test_opened_splits_are_disjoint_and_whole(reference: SViT) -> None:
    data = open_data(reference)
    assert data.name == "cifar10"
    parts = (data.train, data.search, data.held_out)
    assert [len(part) for part in parts] == [5_000, 5_000, 5_000]
    assert len({int(number) for part in parts for number in part.numbers}) == 15_000


def test_split_does_not_depend_on_the_seed(reference: SViT) -> None:
    once, again = open_data(reference, seed=0), open_data(reference, seed=1)
    assert once.digest == again.digest
    assert np.array_equal(once.search.numbers, again.search.numbers)


def test_images_decode_to_the_models_input(reference: SViT) -> None:
    held_out = open_data(reference).held_out
    assert held_out.pixels(0).shape == (32, 32, 3)
    assert held_out.pixels(0).dtype == np.uint8
    inputs = held_out.first(64).inputs(0, 64)
    assert inputs.shape == (64, 3, 32, 32)
    assert np.isfinite(inputs).all()
    assert len({image.tobytes() for image in inputs}) == 64


@pytest.mark.slow
def test_labels_are_those_of_the_images(reference: SViT) -> None:
    """The reference model classifies far more of them rightly than chance would."""
    import torch

    sample = open_data(reference).held_out.shuffled(0).first(64)
    logits = reference.logits(torch.from_numpy(sample.inputs(0, 64)))
    hits = logits.argmax(dim=1).numpy() == sample.labels
    assert hits.mean() > 0.5


def test_data_set_that_is_not_bundled(reference: SViT) -> None:
    with pytest.raises(DataError, match=r"data set 'imagenet' is not bundled .*: pass --data"):
        open_data(replace(reference, data="imagenet"))


def test_model_of_other_classes() -> None:
    model = replace(make_model(), data="cifar10")
    with pytest.raises(DataError, match=r"cifar10 has classes .*airplane.*, tiny has .*ant") as e:
        open_data(model)
    assert "\n" not in str(e.value)
    assert "pass --data" in str(e.value)
