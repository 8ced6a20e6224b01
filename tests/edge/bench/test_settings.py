from __future__ import annotations

import json
from typing import Any

import pytest

from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.errors import MeasurementError


def test_settings_survive_json() -> None:
    settings = BenchSettings(
        runtimes=("native",), profiles=("all",), threads=(1, 2), labels=("a", "b"), operators=True
    )
    told = json.loads(json.dumps(settings.to_dict()))
    assert BenchSettings.from_dict(told) == settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batches": ()}, "no batch size"),
        ({"batches": (0,)}, "expected 1 to 65536"),
        ({"threads": (100_000,)}, "expected 1 to 1024"),
        ({"profiles": ("latency", "latency")}, "name each once"),
        ({"runtimes": ("onnx", "onnx")}, "name each once"),
        ({"runtimes": ("fast",)}, "there is no runtime 'fast': pass onnx, native or both"),
        ({"threads": (2, 2)}, "name each once"),
        ({"rounds": 2}, "expected 5 or more"),
        ({"rounds": 10_001}, "expected 5 or more, to 10000"),
        ({"seconds": 0.0}, "expected more than 0"),
        ({"seconds": float("nan")}, "expected more than 0"),
        ({"warmup_seconds": -1.0}, "warmup is -1 seconds: expected 0 to 3600"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        BenchSettings(**wrong)


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(MeasurementError, match="unknown settings sekonds"):
        BenchSettings.from_dict({"sekonds": 3})
