from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.latency import Latency, cpu_name, measure_latency
from primesvt_deploy.model.svit import SViT


@pytest.mark.slow
def test_hits_are_the_models_top1(tiny: SViT, tiny_data: DataSet, tmp_path: Path) -> None:
    images = tiny_data.held_out
    predicted = tiny.logits(torch.from_numpy(images.inputs(0, len(images)))).argmax(dim=1)
    expected = predicted.numpy() == images.labels
    found = artifact_hits(OnnxModel(export_onnx(tiny, tmp_path / "m.onnx").path), images)
    assert (found != expected).sum() <= 1
    fixed = artifact_hits(OnnxModel(export_onnx(tiny, tmp_path / "7.onnx", batch=7).path), images)
    np.testing.assert_array_equal(fixed, found)


def test_a_fixed_batch_takes_any_number_of_images(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    model = OnnxModel(export_onnx(tiny, tmp_path / "7.onnx", batch=7).path)
    inputs = tiny_data.held_out.inputs(0, 15)
    whole = np.concatenate([model.logits(inputs[:7]), model.logits(inputs[7:14])])
    np.testing.assert_array_equal(model.logits(inputs)[:14], whole)
    assert model.logits(inputs[:1]).shape == (1, 5)


def test_calls_are_interleaved_and_all_timed() -> None:
    order: list[str] = []
    calls = {name: (lambda n=name: order.append(n)) for name in ("a", "b")}
    found = measure_latency(calls, runs=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(latency.milliseconds) for name, latency in found.items()} == {"a": 3, "b": 3}


def test_latency_is_in_milliseconds() -> None:
    found = measure_latency({"nap": lambda: time.sleep(0.01)}, runs=5, warmup=0)["nap"]
    assert 10.0 <= found.median < 40.0
    assert found.p95 >= found.median


def test_median_and_p95() -> None:
    latency = Latency(tuple(float(i) for i in range(1, 102)))
    assert latency.median == 51.0
    assert latency.p95 == 96.0
    assert latency.to_dict() == {"median_ms": 51.0, "p95_ms": 96.0}


def test_the_cpu_has_a_name() -> None:
    assert cpu_name()


def test_slow_calls_are_timed_as_often_as_there_is_time() -> None:
    calls: list[float] = []

    def slow() -> None:
        calls.append(1)
        time.sleep(0.02)

    found = measure_latency({"slow": slow}, runs=1000, warmup=1000, seconds=0.3)
    timed = len(found["slow"].milliseconds)
    assert 5 <= timed < 20
    few = measure_latency({"slow": slow}, runs=1000, warmup=1000, seconds=0.0)
    assert len(few["slow"].milliseconds) == 5, "a median needs some"
