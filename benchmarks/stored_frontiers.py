"""Put what was measured of the reference models beside their weights: `models/NAME/frontier.json`.

    python benchmarks/stored_frontiers.py

Of `results/frontier.json`, `results/frontier_models.json` and `results/precision.json`: greedy
with recovery, and integers without pruning. A build of a reference model tells from it what a
smaller budget would cost. Nothing is measured here; a test holds the files to the results.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.model.reference_models import model_names, models_root
from primesvt_deploy.model.stored_frontier import FILE

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Write a file for each reference model that was measured."""
    for name in model_names():
        content = stored(name)
        if content is not None:
            write_whole(models_root() / name / FILE, content)
            print(f"wrote {models_root() / name / FILE}")


def stored(name: str) -> str | None:
    """Content of the file of one model; None: it was not measured."""
    found = _series(name)
    if found is None:
        return None
    made, row = found
    weights = (models_root() / name / "weights.safetensors").read_bytes()
    content = {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "measured": made,
        "data": "cifar10",
        "policy": row["policy"],
        "dense": {
            "weight_bytes": row["dense"]["weight_bytes"],
            "top1_percent": row["dense"]["held_out"]["top1_percent"],
            "n": row["dense"]["held_out"]["n"],
        },
        "points": [
            {
                "weight_bytes": point["weight_bytes"],
                "saved_percent": point["saved_percent"],
                "drop": _drop(point["drop"]),
            }
            for point in row["points"]
        ],
        "precisions": _precisions(name),
    }
    return json.dumps(content, indent=1) + "\n"


def _series(name: str) -> tuple[str, dict[str, Any]] | None:
    """When the greedy series of a model was measured, and its row."""
    measured, others = _read("frontier"), _read("frontier_models")
    if name in others["models"]:
        return others["made"], others["models"][name]
    if name != measured["model"]:
        return None
    wanted = {"policy": "greedy", "recovery": "all", "seed": 0}
    (row,) = (row for row in measured["series"] if all(row[key] == wanted[key] for key in wanted))
    return measured["made"], row


def _precisions(name: str) -> list[dict[str, Any]]:
    """Integer precisions in which the whole model was built, not pruned."""
    reference = _read("precision")["reference"]
    if name != reference["model"]:
        return []
    return [
        {
            "precision": precision,
            "weight_bytes": build["size"]["shipped"]["weight_bytes"],
            "drop": _drop(build["accuracy"]["drop"]),
        }
        for precision, build in reference["builds"].items()
        if build["size"]["saved_percent"]["parameters"] == 0.0
    ]


def _drop(drop: dict[str, Any]) -> dict[str, Any]:
    return {key: drop[key] for key in ("points", "interval95_points", "n")}


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


if __name__ == "__main__":
    main()
