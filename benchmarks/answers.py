"""Seconds of builds that answer from a frontier: until the plan is chosen, and in all.

    python benchmarks/answers.py

The frontier is searched first, on few search images: how long an answer takes does not depend on
them. Model and data are loaded before; seconds begin after that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import MEASURED, write

from primesvt_deploy import BuildSettings, SearchSettings, build, frontier, load, open_data
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pipeline.variant import PLAN_STAGE
from primesvt_deploy.progress import SILENT

ASKED = {
    "--saving 30 --max-drop off": BuildSettings(saving=30.0, search=SearchSettings(max_drop=None)),
    "--saving 60 --max-drop 3": BuildSettings(saving=60.0),
    "--max-drop 1": BuildSettings(smallest=True, search=SearchSettings(max_drop=1.0)),
}
"""What is asked of `build --frontier`, and its settings."""
SEARCH = SearchSettings(policy="greedy", max_drop=None, search_images=400, robustness_images=128)
SAVINGS = (30.0, 60.0)
HELD_OUT = 200
"""Held-out images of the frontier alone; the builds report on all."""


def answers(model: SViT, data: DataSet, known: KnownFrontier) -> Iterator[dict[str, Any]]:
    """Rows of whole builds that take their plans from a frontier."""
    for asked, settings in ASKED.items():
        with tempfile.TemporaryDirectory() as directory:
            bundle = Path(directory) / "bundle"
            started = time.perf_counter()
            found = build(model, bundle, settings, data=data, known=known, progress=SILENT)
            whole = time.perf_counter() - started
        stages = found.manifest["seconds"]
        names = list(stages)
        after = names[names.index(PLAN_STAGE) + 1 :]
        row = {
            "asked": asked,
            "met": found.met,
            "saved_percent": found.manifest["size"]["saved_percent"]["weights"],
            "held_out_images": found.manifest["accuracy"]["dense"]["n"],
            "seconds_until_plan": round(whole - sum(stages[name] for name in after), 1),
            "seconds": round(whole, 1),
            "stages": stages,
        }
        print(asked, row["seconds_until_plan"], row["seconds"], flush=True)
        yield row


def main() -> None:
    """Search a frontier, ask it, and write `results/answers.json`."""
    model = load(MEASURED)
    data = open_data(model)
    with tempfile.TemporaryDirectory() as directory:
        place, started = Path(directory) / "frontier", time.perf_counter()
        frontier(
            model,
            place,
            SEARCH,
            data=data,
            savings=SAVINGS,
            held_out_images=HELD_OUT,
            progress=SILENT,
        )
        searched = round(time.perf_counter() - started, 1)
        rows = list(answers(model, data, KnownFrontier.read(place)))
    write(
        "answers",
        {
            "model": model.name,
            "threads": torch.get_num_threads(),
            "search": SEARCH.to_dict(),
            "search_seconds": searched,
            "answers": rows,
        },
    )


if __name__ == "__main__":
    main()
