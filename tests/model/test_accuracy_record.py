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
from primesvt_deploy.pipeline.recorded_accuracy import check_recorded_accuracy

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
