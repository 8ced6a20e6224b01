"""Results files of benchmarks, with the machine that they were measured on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.measure.latency import cpu_name
from primesvt_deploy.pipeline.manifest import versions
from primesvt_deploy.version import __version__

RESULTS = Path(__file__).parent / "results"
MEASURED = "spikformer-2-192-cifar10"
"""The reference model that is measured: measuring the default model anew would take hours."""


def machine() -> dict[str, Any]:
    """CPU, its instruction set as torch names it, cores, system and versions."""
    return {
        "cpu": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "primesvt-deploy": __version__,
        **versions(),
    }


def write(name: str, content: dict[str, Any]) -> None:
    """Write `results/NAME.json`, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    write_whole(path, json.dumps({**made, **content}, indent=1) + "\n")
    print(f"wrote {path}")
