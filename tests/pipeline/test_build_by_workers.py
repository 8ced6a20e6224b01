"""A build whose candidates workers evaluate; a file of its own, as a process has one session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray_sessions import needs_ray

from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.build import build
from primesvt_deploy.settings import BuildSettings, ComputeSettings, SearchSettings

pytestmark = needs_ray

SEARCH = SearchSettings(rates=(0.3, 0.7), robustness_images=60, max_drop=40.0)


@pytest.mark.slow
def test_a_build_by_workers_ships_the_same(model: SViT, data: DataSet, tmp_path: Path) -> None:
    found = {}
    for name, compute in {
        "alone": ComputeSettings(device="cpu"),
        "shared": ComputeSettings(device="cpu", workers=2),
    }.items():
        settings = BuildSettings(saving=20.0, search=SEARCH, verify_images=8, compute=compute)
        found[name] = build(model, tmp_path / name, settings, data=data).manifest
    alone, shared = found["alone"], found["shared"]
    assert shared["constraints"] == alone["constraints"]
    assert shared["accuracy"] == alone["accuracy"]
    for file in ("model.onnx", "plan.json"):
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "shared" / file).read_bytes()
    assert alone["compute"]["engine"] == "in-process"
    assert shared["compute"] | {"device_name": ""} == {
        "device": "cpu", "device_name": "", "evaluation_precision": "fp32",
        "engine": "ray", "workers": 2,
    }  # fmt: skip
    assert not children_of_ray(), "workers are left running"


def children_of_ray() -> list[int]:
    """Processes of Ray that this one has started."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(one) for one in listed if "ray" in command(int(one))]


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""
