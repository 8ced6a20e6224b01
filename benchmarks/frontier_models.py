"""Our policy on reference models other than the one that `frontier.py` measures everything on.

    python benchmarks/frontier_models.py            # those that are not measured yet
    python benchmarks/frontier_models.py NAME       # one of them in any case

Greedy with recovery, no gradient step: does what holds there hold for a model that was trained
longer? Settings are those of `frontier.py`, sizes those up to 60% saved. Writes
`results/frontier_models.json`; `benchmarks/work/` keeps what an interrupted run had.
"""

from __future__ import annotations

import json
import sys

from common import MEASURED, RESULTS, write
from frontier import SAVINGS, WHOLE, WORK, series

from primesvt_deploy import load, open_data
from primesvt_deploy.model.reference_models import model_names

SIZES = SAVINGS[:6]


def main() -> None:
    """Measure and write, a model at a time."""
    path = RESULTS / "frontier_models.json"
    known = json.loads(path.read_text())["models"] if path.is_file() else {}
    others = [name for name in model_names() if name != MEASURED]
    rows = {name: known[name] for name in others if name in known}
    for name in sys.argv[1:] or [name for name in others if name not in rows]:
        model = load(name)
        row = series(model, open_data(model), *WHOLE, 0, WORK / name, SIZES)
        rows[name] = {"digest": model.digest, **row}
        write("frontier_models", {"models": rows})


if __name__ == "__main__":
    main()
