"""Record which search images candidates of the reference model classify rightly, for simulations.

    python tools/record_hits.py

Writes `tests/fixtures/recorded_hits.npz`: `dense` and each of `candidates` as packed flags, one bit
an image in the search's order, and `names`. The sequential test is tried on them in many orders.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import primesvt_deploy as svit
from primesvt_deploy.data import open_data
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pruning.plan import Plan

MODEL = "spikformer-2-192-cifar10-12epochs"
IMAGES = 1024
RATES = (0.2, 0.5, 0.8)
TARGET = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "recorded_hits.npz"


def main() -> None:
    """Evaluate the candidates and write their hits."""
    model = svit.load(MODEL)
    settings = svit.SearchSettings(search_images=IMAGES, max_drop=None)
    context = search_context(model, settings, open_data(model, seed=settings.seed))
    groups = context.prunable.groups
    ranking = context.space.by_norm
    plans = {"dense": Plan()}
    for group in groups[:4]:
        for rate in RATES:
            plans[f"{group.name} {rate:.0%}"] = ranking.pruned(Plan(), group, rate)
    for rate in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6):
        together = Plan()
        for group in groups:
            together = ranking.pruned(together, group, rate)
        plans[f"all layers {rate:.0%}"] = together
    hits = {}
    for name, plan in plans.items():
        hits[name] = context.engine.outcome(plan).hits
        print(f"{name}: {100 * hits[name].mean():.2f}%")
    dense = hits.pop("dense")
    np.savez_compressed(
        TARGET,
        images=np.array(IMAGES),
        names=np.array(list(hits)),
        dense=np.packbits(dense),
        candidates=np.stack([np.packbits(found) for found in hits.values()]),
    )


if __name__ == "__main__":
    main()
