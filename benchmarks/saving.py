"""Saving against held-out accuracy without fine-tuning, build time, and file size.

    python benchmarks/saving.py

On `common.MEASURED`, by the prioritized policy within 3 points: the paper's saving (26.68%) and
others. Decisions rest on the search split, figures on the held-out one, measured with the exported
artifact. The first point is a whole `build`, timed by stage; the others resume from its ledger, as
a user's next build with another budget would.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from common import MEASURED, write

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT

PAPER_SAVING = 26.68
FAITHFUL = SearchSettings(policy="prioritized", recover=())
"""The paper's policy, without recovery."""
SAVINGS = (PAPER_SAVING, 10.0, 20.0, 30.0, 40.0, 50.0)


def main() -> None:
    """Build at every saving and write `results/saving.json`."""
    model = load(MEASURED)
    data = open_data(model)
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        ledger: bytes = b""
        for saving in SAVINGS:
            manifest, widths, ledger = built(model, data, saving, Path(directory), ledger)
            points.append(point(manifest, widths, saving))
            print(json.dumps(points[-1]["accuracy"]["drop"]))
    write(
        "saving",
        {
            "model": model.name,
            "data": data.name,
            "policy": "prioritized",
            "fine_tuning": False,
            "paper": {"saving_percent": PAPER_SAVING, "drop_points": 3.0, "source": "PrimeSVT"},
            "build_seconds": points[0]["seconds"],
            "points": sorted(points, key=lambda p: p["asked_saving_percent"]),
        },
    )


def built(
    model: SViT, data: DataSet, saving: float, directory: Path, ledger: bytes
) -> tuple[dict[str, Any], dict[str, int], bytes]:
    """Manifest, kept widths and ledger of one build that starts from `ledger`."""
    output = directory / f"saving-{saving:g}"
    settings = BuildSettings(saving=saving, search=FAITHFUL)
    if ledger:
        resume_from(ledger, model, data, settings, output)
    result = build(model, output, settings, data=data)
    widths = json.loads((result.path / "plan.json").read_text())["widths"]
    return result.manifest, widths, (result.path / "ledger.jsonl").read_bytes()


def resume_from(
    ledger: bytes, model: SViT, data: DataSet, settings: BuildSettings, output: Path
) -> None:
    """Write a ledger to the path from which the next build resumes."""
    from primesvt_deploy.bundle.workspace import Workspace
    from primesvt_deploy.pipeline.image_sets import search_key

    with Workspace(output, force=False) as workspace:
        workspace.ledger_path(search_key(model, data, settings.search)).write_bytes(ledger)


def point(manifest: dict[str, Any], widths: dict[str, int], saving: float) -> dict[str, Any]:
    """Row of a build in the results file."""
    shipped = manifest["size"]["shipped"]
    parameter_bytes = 4 * shipped["shipped_parameters"]
    return {
        "asked_saving_percent": saving,
        "met": manifest["constraints"]["met"],
        "stopped_by": manifest["constraints"]["stopped_by"],
        "saved_percent": manifest["size"]["saved_percent"],
        "file_bytes": shipped["file_bytes"],
        "shipped_parameter_bytes": parameter_bytes,
        "file_over_parameters": round(shipped["file_bytes"] / parameter_bytes, 4),
        "accuracy": {k: manifest["accuracy"][k] for k in ("dense", "shipped", "drop", "search")},
        "verification": {
            k: manifest["verification"][k]
            for k in ("n", "top1_disagreements", "flipped_spikes", "spikes_compared")
        },
        "widths": widths,
        "seconds": manifest["seconds"],
    }


if __name__ == "__main__":
    main()
