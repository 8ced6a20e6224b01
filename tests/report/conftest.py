"""A made-up build for the report's tests; all its numbers differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest


def accuracy(correct: int, n: int, low: float, high: float) -> dict[str, Any]:
    share = 100.0 * correct / n
    interval = [low, high]
    return {"top1_percent": share, "interval95_percent": interval, "correct": correct, "n": n}


MANIFEST: dict[str, Any] = {
    "schema": 1,
    "tool": {"name": "primesvt-deploy", "version": "0.7.1"},
    "created": "2026-03-01T12:34:56+00:00",
    "model": {
        "name": "tiny-svit",
        "family": "spikformer",
        "arguments": {"timesteps": 4, "stem_widths": [24, 48]},
        "preprocessing": {"resize": 33, "mean": [0.4914, 0.4822]},
        "labels": ["cat", "dog"],
    },
    "constraints": {
        "budget_bytes": 4_000_000,
        "max_drop_points": 1.0,
        "met": True,
        "budget_met": True,
        "accuracy_met": True,
        "stopped_by": "the budget is met",
    },
    "size": {
        "dense": {
            "file_bytes": 5_812_345,
            "parameters": 1_432_123,
            "parameter_bytes": 5_728_492,
            "shipped_parameters": 1_420_456,
            "macs": 412_345_678,
        },
        "shipped": {
            "file_bytes": 3_987_654,
            "parameters": 982_123,
            "parameter_bytes": 3_928_492,
            "shipped_parameters": 975_321,
            "macs": 300_345_678,
        },
        "saved_percent": {"file": 31.39, "parameters": 31.42, "macs": 27.16},
    },
    "accuracy": {
        "data": "cifar10",
        "dense": accuracy(3766, 5000, 74.1, 76.5),
        "shipped": accuracy(3726, 5000, 73.3, 75.7),
        "drop": {
            "points": 0.8,
            "interval95_points": [0.21, 1.39],
            "lost": 133,
            "gained": 93,
            "n": 5000,
        },
        "search": {"dense": accuracy(3801, 5000, 74.8, 77.2), "drop_points": 0.62},
    },
    "latency": {
        "cpu": "Cortex-A76",
        "threads": 2,
        "runs": 100,
        "batch": 1,
        "dense": {"median_ms": 23.412, "p95_ms": 25.9},
        "shipped": {"median_ms": 17.81, "p95_ms": 19.22},
        "ratio_median": 1.31,
    },
    "verification": {
        "n": 256,
        "top1_agreement_percent": 99.6094,
        "top1_disagreements": 1,
        "max_abs_logit_difference": 0.1234,
        "max_abs_logit_difference_without_flips": 3.1e-6,
        "images_with_flips": 5,
        "flipped_spikes": 17,
        "spikes_compared": 98_765_432,
        "flips": [
            {"layer": "stem.0", "by_timestep": [0, 0, 0, 1]},
            {"layer": "stem.9", "by_timestep": [0, 0, 0, 0]},
        ],
    },
    "policy": {
        "name": "prioritized",
        "rates": [0.1, 0.25],
        "channel_multiple": 8,
        "search_images": 5000,
        "robustness_images": 512,
        "seed": 11,
    },
    "seconds": {"robustness": 20.15, "policy": 400.0},
    "versions": {"python": "3.11.2", "torch": "2.9.0"},
    "neurons": [],
    "files": {"model.onnx": {"sha256": "ab12" * 16, "bytes": 3_987_654}},
}


def point(rate: float, kept: int, top1: float, drop: float, n: int, within: bool) -> dict[str, Any]:
    return {
        "rate": rate,
        "kept": kept,
        "top1_percent": top1,
        "drop_points": drop,
        "n": n,
        "within": within,
    }


CURVES: list[dict[str, Any]] = [
    {
        "layer": "residual",
        "width": 192,
        "heads": 1,
        "size": 812_544,
        "target": False,
        "curve": [point(0.1, 173, 71.3, 4.7, 512, False), point(0.25, 144, 50.4, 25.6, 96, False)],
    },
    {
        "layer": "blocks.0.attn.v",
        "width": 768,
        "heads": 6,
        "size": 296_448,
        "target": True,
        "curve": [point(0.1, 692, 76.2, -0.2, 512, True), point(0.25, 576, 74.9, 1.1, 512, False)],
    },
]
POLICY: dict[str, Any] = {
    "met": True,
    "predicted_bytes": 3_998_166,
    "search_drop_points": 0.62,
    "stopped_by": "the budget is met",
    "steps": [
        {
            "layer": "blocks.0.attn.v",
            "rate": 0.1,
            "kept": 692,
            "drop": {
                "points": 0.62,
                "interval95_points": [0.2, 1.04],
                "lost": 90,
                "gained": 59,
                "n": 5000,
            },
        }
    ],
}


@pytest.fixture
def manifest() -> dict[str, Any]:
    return copy.deepcopy(MANIFEST)


@pytest.fixture
def curves() -> list[dict[str, Any]]:
    return copy.deepcopy(CURVES)


@pytest.fixture
def policy() -> dict[str, Any]:
    return copy.deepcopy(POLICY)
