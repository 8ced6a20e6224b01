"""Greedy pruning of the reference models other than the one that `frontier.py` measures.

    python benchmarks/frontier_models.py            # those that are not measured yet
    python benchmarks/frontier_models.py NAME       # one of them, measured or not

Greedy with recovery, no gradient step: whether the results hold for a model that was trained
longer. Settings are those of `frontier.py`, sizes those up to 60% saved. Writes
`results/frontier_models.json`; an interrupted run goes on from `benchmarks/work/`.
"""

from __future__ import annotations

import json
import sys

from common import MEASURED, RESULTS, write
from frontier_series import SAVINGS, WORK, Series, series_row

from primesvt_deploy import load, open_data
from primesvt_deploy.model.reference_models import model_names

SIZES = SAVINGS[:6]


def main() -> None:
    """Measure and write, a model at a time."""
    path = RESULTS / "frontier_models.json"
    measured = json.loads(path.read_text())["models"] if path.is_file() else {}
    others = [name for name in model_names() if name != MEASURED]
    rows = {name: measured[name] for name in others if name in measured}
    for name in sys.argv[1:] or [name for name in others if name not in rows]:
        model = load(name)
        work = WORK / name
        row = series_row(model, open_data(model), Series("greedy"), work=work, savings=SIZES)
        rows[name] = {"digest": model.digest, **row}
        write("frontier_models", {"models": rows})


if __name__ == "__main__":
    main()
