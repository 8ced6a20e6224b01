"""Seconds of builds that answer from a frontier: until the plan is chosen, and in all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from frontier_series import Series

from primesvt_deploy import BuildSettings, SearchSettings, build
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pipeline.variant import PLAN_STAGE

__all__ = ["ASKED", "answer_rows"]

ASKED = {
    "--saving 30 --max-drop off": BuildSettings(saving=30.0, search=SearchSettings(max_drop=None)),
    "--saving 60 --max-drop 3": BuildSettings(saving=60.0),
    "--max-drop 1": BuildSettings(smallest=True, search=SearchSettings(max_drop=1.0)),
}
"""What is asked of `build --frontier`, and its settings."""


def answer_rows(model: SViT, data: DataSet) -> Iterator[dict[str, Any]]:
    """Rows of whole builds from the main series' frontier, which must be finished.

    Model and data are loaded already; the seconds of a build begin after that.
    """
    known = KnownFrontier.read(Series("greedy").work)
    for asked, settings in ASKED.items():
        with tempfile.TemporaryDirectory() as directory:
            started = time.perf_counter()
            found = build(model, Path(directory) / "bundle", settings, data=data, known=known)
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
            "threads": torch.get_num_threads(),
        }
        print(asked, row["seconds_until_plan"], row["seconds"], flush=True)
        yield row
