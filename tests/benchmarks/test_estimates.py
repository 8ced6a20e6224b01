"""The benchmark of what a dry run foretells, on made-up builds."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def span(value: float) -> dict[str, float]:
    return {"likely": value, "low": value / 2, "high": 2 * value}


EXPECTED = {
    "stages": [
        {"stage": name, "seconds": span(seconds)}
        for name, seconds in (
            *(("dense accuracy", 20.0), ("sensitivity", 30.0)),
            *(("sensitivity", 25.0), ("latency", 7.0)),
        )
    ],
    "seconds": span(82.0),
    "candidates": span(70.0),
    "images": span(9000.0),
    "memory": {"peak_bytes": 2_000_000_000},
    "measured_seconds": 8.0,
}  # fmt: skip
FOUND = {
    "stage_seconds": {
        "dense accuracy": 22.0,
        "sensitivity at 5.8 MB": 33.0,
        "sensitivity at 5.0 MB": 27.0,
        "latency": 6.0,
        "content of the report": 2.0,
    },
    "candidates": 73,
    "images": 9500,
    "peak_bytes": 2_100_000_000,
}


def test_stages_of_one_name_are_compared_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    compared = importlib.import_module("estimates").compared(EXPECTED, FOUND)
    assert compared["stages"]["sensitivity"] == {"expected_s": 55.0, "actual_s": 60.0}
    assert compared["stages"]["content of the report"] == {"expected_s": 0.0, "actual_s": 2.0}
    assert compared["seconds"]["actual"] == 90.0

    table = importlib.import_module("estimates_table").estimates_table
    build = {"command": "build --saving 20", **compared}
    lines = table({"builds": {"one": build}, "machine": {"cpu": "a CPU", "cores": 2}}).splitlines()
    assert "| `build --saving 20` | seconds in all | 82 | 41 to 164 | 90 |" in lines
    assert "| | sensitivity, s | 55 | | 60 |" in lines
    assert "| | shorter stages, s | 7 | | 8 |" in lines
    assert "| | peak memory | 2.00 GB | | 2.10 GB |" in lines
