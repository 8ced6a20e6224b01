"""The whole build at the widths of published ImageNet models, random weights, 224 pixels.

    python benchmarks/families.py [NAME ...]

Builds with a saving of 30% of the file and no accuracy constraint, as accuracy means nothing with
random weights. It shows that a network of that size of each family is loaded, pruned, cut, checked
against the masked model, exported and verified against torch, and what that costs. Each build is a
process of its own, whose peak memory is recorded; only named models are measured again.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write
from wide import MODELS, network

from primesvt_deploy import BuildSettings, SearchSettings, build, open_data

SAVING = 30.0
IMAGES = 100


def main() -> None:
    """Measure the models named on the command line, all by default."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2])))
        return
    path = RESULTS / "families.json"
    rows = json.loads(path.read_text())["models"] if path.is_file() else {}
    for name in sys.argv[1:] or MODELS:
        line = [sys.executable, __file__, "--one", name]
        found = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        rows[name] = json.loads(found.stdout.splitlines()[-1])
        content = {name: rows[name] for name in MODELS if name in rows}
        write("families", {"asked_saving_percent": SAVING, "images": IMAGES, "models": content})


def measured(name: str) -> dict[str, Any]:
    """Build a model: sizes, times and peak memory."""
    model = network(name)
    settings = BuildSettings(
        saving=SAVING, search=SearchSettings(max_drop=None, recover=()), verify_images=8
    )
    with tempfile.TemporaryDirectory() as directory:
        data = open_data(model, random_images(Path(directory) / "noise.npz"))
        started = time.perf_counter()
        manifest = build(model, Path(directory) / "bundle", settings, data=data).manifest
        seconds = time.perf_counter() - started
    return {
        "family": model.family.name,
        "met": manifest["constraints"]["met"],
        "size": manifest["size"],
        "latency": manifest["latency"],
        "verification": manifest["verification"],
        "build_seconds": round(seconds, 1),
        "stages_seconds": manifest["seconds"],
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }


def random_images(path: Path) -> Path:
    """An `.npz` of noise with labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=generator.integers(0, 1000, IMAGES))
    return path


if __name__ == "__main__":
    main()
