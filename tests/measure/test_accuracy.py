from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import Predictions, artifact_hits, artifact_predictions
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
