"""Accuracy of each reference model at T = 1, 2 and its own, firing rates and energy.

    python benchmarks/models.py            # all of models/
    python benchmarks/models.py NAME       # one of them

Held-out and search top-1 in torch, float32, with weights as shipped; at fewer timesteps with the
norms as trained, nothing re-estimated. Each row is written when it is done; rows of models that are
no longer shipped are removed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from common import RESULTS, write

from primesvt_deploy import load, open_data
from primesvt_deploy.analysis.energy import estimate_energy
from primesvt_deploy.analysis.firing import measure_firing_rates
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.reference_models import model_names, models_root

TIMESTEPS = (1, 2)
FIRING_IMAGES = 512


def main() -> None:
    """Measure and write `results/models.json`."""
    for name in sys.argv[1:] or model_names():
        row = measured(name)
        path = RESULTS / "models.json"
        others = json.loads(path.read_text())["models"] if path.is_file() else {}
        rows = {**others, name: row}
        write("models", {"models": {name: rows[name] for name in model_names() if name in rows}})


def measured(name: str) -> dict[str, Any]:
    """The row of one model."""
    model = load(name)
    data = open_data(model)
    by_timesteps = {}
    for steps in (*(t for t in TIMESTEPS if t < model.timesteps), model.timesteps):
        fewer = model.at_timesteps(steps)
        by_timesteps[str(steps)] = {
            "held_out": Accuracy.of(torch_hits(fewer, data.held_out)).to_dict(),
            "search": Accuracy.of(torch_hits(fewer, data.search)).to_dict(),
        }
        print(name, steps, by_timesteps[str(steps)]["held_out"], flush=True)
    images = data.search.shuffled(0).first(FIRING_IMAGES)
    firing, energy = measure_firing_rates(model, images), estimate_energy(model, images).to_dict()
    weights = models_root() / name / "weights.safetensors"
    return {
        "digest": model.digest,
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "weights_bytes": weights.stat().st_size,
        "data": data.name,
        "timesteps": by_timesteps,
        "firing": [rate.to_dict() for rate in firing],
        "energy": {key: value for key, value in energy.items() if key != "layers"},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
