"""Classes that are named as the folders, or the arrays, of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import LABELS, make_model, write_arrays

from primesvt_deploy.data.class_names import class_names, named_by_data
from primesvt_deploy.model.svit import SViT

NUMBERS = ("0", "1", "2", "3", "4")


@pytest.fixture(scope="module")
def unnamed() -> SViT:
    return replace(make_model(), labels=NUMBERS)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize("below", ["train", "val", ""])
def test_folders_are_numbered_as_torchvision_does(
    unnamed: SViT, tmp_path: Path, below: str
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    names = ("dog", "Bee", "ant", "elk", "cat")
    folders(tmp_path, *(f"{below}/{name}".lstrip("/") for name in (*names, ".hidden")))
    if below == "train":
        folders(tmp_path / "val", "ant")
    found = named_by_data(unnamed, tmp_path)
    order, _ = datasets.folder.find_classes(tmp_path / below)
    assert found.labels == tuple(name for name in order if name != ".hidden")
    assert found.labels[0] == "Bee", "capitals come first"
    (note,) = found.notes[len(unnamed.notes) :]
    assert "0 = Bee, 1 = ant, 2 = cat, ...)" in note and "pass --labels" in note


def test_arrays_have_their_own_order(unnamed: SViT, tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "d.npz", unnamed)
    assert class_names(path) is None
    assert named_by_data(unnamed, path) is unnamed
    with np.load(path) as arrays:
        np.savez(path, **arrays, classes=np.asarray(LABELS[::-1]))
    found = named_by_data(unnamed, path)
    assert found.labels == LABELS[::-1]
    assert "in the order of its classes (0 = elk" in found.notes[-1]


@pytest.mark.parametrize(
    "names", [LABELS[:4], (*LABELS, "fox"), NUMBERS, NUMBERS[:3]], ids="-".join
)
def test_other_classes_name_nothing(unnamed: SViT, tmp_path: Path, names: tuple[str, ...]) -> None:
    assert named_by_data(unnamed, folders(tmp_path, *names)) is unnamed


def test_a_model_with_names_keeps_them(tmp_path: Path) -> None:
    model = make_model()
    assert named_by_data(model, folders(tmp_path, "a", "b", "c", "d", "e")) is model
    assert named_by_data(model, None) is model


def test_what_cannot_be_read_is_left_to_whoever_opens_it(unnamed: SViT, tmp_path: Path) -> None:
    (tmp_path / "damaged.npz").write_bytes(b"PK no archive")
    for name in ("none", "damaged.npz"):
        assert named_by_data(unnamed, tmp_path / name) is unnamed
