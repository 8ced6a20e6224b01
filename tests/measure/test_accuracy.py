from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from other_device import OTHER, other_device
from out_of_memory import memory_for
from recorded_progress import Recorded

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.accuracy import (
    Predictions,
    artifact_hits,
    artifact_predictions,
    torch_hits,
)
from primesvt_deploy.model.svit import SViT


def test_a_prediction_is_a_class_and_its_probability() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [1000.0, -1000.0, 0.0]], np.float32)
    found = Predictions.of(logits)
    assert found.classes.tolist() == [1, 0]
    e = np.exp(np.array([1.0, 3.0, 2.0]))
    assert np.allclose(found.probabilities, [e[1] / e.sum(), 1.0])


def test_predictions_of_an_artifact_are_its_models(
    tiny: SViT, tiny_data: DataSet, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    images = tiny_data.search.first(20)
    model = OnnxModel(tiny_artifact.path)
    found = artifact_predictions(model, images, batch_size=7)
    logits = tiny.logits(torch.from_numpy(images.inputs(0, 20)))
    highest, classes = logits.softmax(dim=1).max(dim=1)
    assert np.array_equal(found.classes, classes.numpy())
    assert np.allclose(found.probabilities, highest.numpy(), atol=1e-4)
    assert np.array_equal(artifact_hits(model, images), classes.numpy() == images.labels)


def test_hits_on_another_device_are_the_same(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(40)
    expected = torch_hits(tiny, images)
    assert expected.any() and not expected.all()
    with other_device():
        assert np.array_equal(torch_hits(tiny, images, device=OTHER), expected)
    logits = tiny.logits(torch.from_numpy(images.inputs(0, 40)))
    assert np.array_equal(logits.argmax(dim=1).numpy() == images.labels, expected)


def test_images_that_do_not_fit_are_classified_in_halves(tiny: SViT, tiny_data: DataSet) -> None:
    images, progress = tiny_data.search.first(40), Recorded()
    expected = torch_hits(tiny, images)
    with memory_for(9, tiny.timesteps) as failed:
        assert np.array_equal(torch_hits(tiny, images, progress), expected)
    assert failed == [32, 16]
    assert [line.rpartition(":")[2] for line in progress.messages] == [
        " 16 from now on",
        " 8 from now on",
    ]
    assert [done for done, *_ in progress.stages[-1].advances[0]] == [8, 16, 24, 32, 40]
    with memory_for(0, tiny.timesteps), pytest.raises(SettingsError, match="a single sample"):
        torch_hits(tiny, images)
