"""The accuracy that a file records is read as percent, and a search holds the model to it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.recorded_accuracy import chance_warning, check_recorded_accuracy

STATE = {"head.weight": torch.zeros(2, 3)}


def recorded(path: Path, **beside: Any) -> float | None:
    torch.save({"state_dict": STATE, **beside}, path / "w.pth")
    return read_checkpoint(path / "w.pth").accuracy


@pytest.mark.parametrize(
    ("beside", "percent"),
    [
        ({"best_acc": 0.939}, 93.9),
        ({"max_accuracy": 93.9}, 93.9),
        ({"max_test_acc": np.float64(0.5)}, 50.0),
        ({"best_acc1": torch.tensor(71.5)}, 71.5),
        ({"metric": 72.25, "args": argparse.Namespace(eval_metric="top1")}, 72.25),
        ({"metric": 0.9, "args": argparse.Namespace(eval_metric="loss")}, None),
        ({"max_acc1": 74.3}, 74.3),
        ({"best_prec1": torch.tensor(0.75)}, 75.0),
        ({"test_stats": {"acc1": 81.5, "loss": 0.9}}, 81.5),
        ({"best_acc": {"top1": 93.0}}, 93.0),
        ({"best_acc": 0.0}, None),
        ({"best_acc": float("nan")}, None),
        ({"best_acc": True}, None),
        ({"epoch": 90}, None),
        ({"best_acc": 123.0}, None),
    ],
)
def test_the_record_is_read_as_percent(
    tmp_path: Path, beside: dict[str, Any], percent: float | None
) -> None:
    found = recorded(tmp_path, **beside)
    assert found == (None if percent is None else pytest.approx(percent))


def with_record(model: SViT, percent: float | None) -> SViT:
    from dataclasses import replace

    return replace(model, recorded_accuracy=percent)


def test_a_model_far_from_its_record_is_refused(tiny: SViT) -> None:
    check_recorded_accuracy(with_record(tiny, None), Accuracy(1, 100))
    check_recorded_accuracy(with_record(tiny, 93.9), Accuracy(90, 100))
    # 500 images leave 3 points of doubt, another split 5 more.
    check_recorded_accuracy(with_record(tiny, 93.9), Accuracy(435, 500))
    with pytest.raises(ModelError, match=r"10\.0% .* of 500 search .* records 93\.9%") as caught:
        check_recorded_accuracy(with_record(tiny, 93.9), Accuracy(50, 500))
    assert "--ignore-args" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("correct", "n", "near"),
    [
        (2, 60, True),  # 3.3% over few images, of five classes: the order of labels, most likely
        (20, 100, True),
        (0, 400, True),
        (1150, 5000, True),  # surely above chance, and yet no network that was trained
        (130, 500, True),
        (1300, 5000, False),
        (80, 100, False),
        (0, 0, False),
    ],
)
def test_a_model_that_guesses_is_told(tiny: SViT, correct: int, n: int, near: bool) -> None:
    found = chance_warning(tiny, Accuracy(correct, n), "search")
    assert (found is not None) is near
    if found is not None:
        assert found.startswith("WARNING: ") and "\n" not in found
        assert f"of {n} search images right, guessing 20%" in found
        for cause in ("--labels", "--mean", "--std", "0..255"):
            assert cause in found


def test_chance_depends_on_the_number_of_classes(tiny: SViT) -> None:
    from dataclasses import replace

    many = replace(tiny, labels=tuple(map(str, range(1000))))
    assert chance_warning(many, Accuracy(500, 5000), "search") is None, "10% of 1000 classes"
    two = replace(tiny, labels=("cat", "dog"))
    assert chance_warning(two, Accuracy(2600, 5000), "search") is not None, "52% of two"
    assert chance_warning(two, Accuracy(2900, 5000), "search") is None
