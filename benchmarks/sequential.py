"""What deciding on few images saves: images a decision, and whole builds, before and now.

    python benchmarks/sequential.py [--before REVISION] [--seeds 3]

Builds with this tree and with an earlier one take turns. The first seed is built as users build;
the others with 1,000 search images, 1,500 held-out ones, to compare plans.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write
from first_minutes import checked_out, run
from sequential_simulation import simulated

import primesvt_deploy as svit
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.data import open_data
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.pipeline.apply_plan import recover_and_cut
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
MODEL = "spikformer-2-192-cifar10-12epochs"
BEFORE = "90f6e93"
"""The last commit before candidates were decided on few images."""
BUILDS = {
    "prioritized, 26.68%": "--policy prioritized --saving 26.68",
    "greedy, 60%": "--policy greedy --saving 60",
}
FEWER = "--search-images 1000 --held-out-images 1500"
ALLOWED, ORDERS = 3.0, 100
RATE, IMAGES = 0.3, 512


def built(tree: Path, place: Path, options: str) -> dict[str, Any]:
    """One build of the reference: seconds, plan, and what it lost."""
    ended = run(tree, place, f"build --model {MODEL} {options} --output bundle")
    if not (place / "bundle" / "manifest.json").exists():
        raise SystemExit(f"the build failed: {ended.lines[-1:]}")
    manifest = json.loads((place / "bundle" / "manifest.json").read_text())
    plan = json.loads((place / "bundle" / "plan.json").read_text())
    return {
        "seconds": ended.seconds,
        "stages": manifest["seconds"],
        "widths": plan["widths"],
        "kept": hashlib.sha256(json.dumps(plan["kept"], sort_keys=True).encode()).hexdigest()[:16],
        "met": manifest["constraints"]["met"],
        "search": manifest["accuracy"]["search"],
        "held_out_drop": manifest["accuracy"]["drop"],
    }


def builds(before: Path, seeds: int) -> dict[str, Any]:
    """Builds with both trees in turns."""
    found: dict[str, Any] = {name: {"before": [], "now": []} for name in BUILDS}
    for seed in range(seeds):
        for name, options in BUILDS.items():
            for tree, path in (("before", before), ("now", ROOT)):
                with tempfile.TemporaryDirectory() as place:
                    extra = f"--seed {seed}" + (f" {FEWER}" if seed else "")
                    found[name][tree].append(built(path, Path(place), f"{options} {extra}"))
    return found


def native() -> dict[str, Any]:
    """Seconds of a candidate in torch and in the C engine: to prepare it, and an image."""
    model = svit.load(MODEL)
    settings = svit.SearchSettings(search_images=IMAGES, max_drop=None)
    context = search_context(model, settings, open_data(model, seed=0))
    plan = Plan()
    for group in context.prunable.groups:
        plan = context.space.by_norm.pruned(plan, group, RATE)
    images = context.image_sets().search
    context.recovery.prepare()
    context.engine.outcome(Plan(), limit=32)
    begun = time.perf_counter()
    first = context.engine.outcome(plan, limit=32).hits
    few = time.perf_counter()
    rest = context.engine.outcome(plan, start=32, limit=IMAGES).hits
    whole = time.perf_counter()
    an_image = (whole - few) / (IMAGES - 32)
    cut = recover_and_cut(context, plan)
    recovered = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        path = export_native(
            quantize(cut, 8), Path(directory) / "model.svit", precision=Precision.INT8
        ).path
        engine = NativeModel(path)
        prepared = time.perf_counter()
        theirs = artifact_hits(engine, images)
        ended = time.perf_counter()
    return {
        "images": IMAGES,
        "torch": {
            "prepare_s": round(few - begun - 32 * an_image, 2),
            "images_per_s": round(1.0 / an_image, 1),
        },
        "native_int8": {
            "prepare_s": round(prepared - whole, 2),
            "of_that_lowering_s": round(prepared - recovered, 2),
            "images_per_s": round(IMAGES / (ended - prepared), 1),
        },
        "decided_otherwise": int((np.concatenate([first, rest]) != theirs).sum()),
    }


def main() -> None:
    """Measure, and write `results/sequential.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="git revision to compare with")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    content: dict[str, Any] = {"revision": chosen.before, "allowed": ALLOWED, "orders": ORDERS}
    content["simulation"] = simulated(ALLOWED, ORDERS)
    print(json.dumps(content, indent=1), flush=True)
    content["native"] = native()
    print(json.dumps(content["native"], indent=1), flush=True)
    with checked_out(chosen.before) as earlier:
        content["builds"] = builds(earlier, chosen.seeds)
    write("sequential", content)


if __name__ == "__main__":
    main()
