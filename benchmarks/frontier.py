"""Held-out accuracy against bytes for every policy: bare, recovered, fine-tuned.

    python benchmarks/frontier.py                    # all series; hours on two cores
    python benchmarks/frontier.py greedy uniform     # some policies, bare and recovered
    python benchmarks/frontier.py greedy/none        # one of both
    python benchmarks/frontier.py recovery           # each recovery step by itself
    python benchmarks/frontier.py head               # greedy's plans, classifiers refitted
    python benchmarks/frontier.py head/80            # one of them
    python benchmarks/frontier.py free               # constant channels, removed first
    python benchmarks/frontier.py timesteps          # fewer timesteps, the same weights: accuracy
    python benchmarks/frontier.py latency            # and latency, on a machine left alone
    python benchmarks/frontier.py finetune           # fine-tuned points and the dense baseline
    python benchmarks/frontier.py finetune/greedy    # those of one policy

On `common.MEASURED`. Decisions rest on search images, figures on held-out ones, in torch (an
artifact equals its model). An interrupted run goes on from `benchmarks/work/` when the same command
is run. Each row goes to the results file when it is done; a row of another version is replaced when
its series is run again.
"""

from __future__ import annotations

import json
import sys

from common import MEASURED, RESULTS
from frontier_parts import (
    FINETUNED,
    HEADS,
    constant_channels_row,
    finetuned,
    heads,
    latency_rows,
    recovery_rows,
    timestep_rows,
)
from frontier_plot import draw
from frontier_series import SEEDS, Series, keep, series_row

from primesvt_deploy import load, open_data
from primesvt_deploy.settings import POLICY_NAMES


def main() -> None:
    """Run the requested series and write `results/frontier.json` and the plot."""
    parts = ("recovery", "head", "free", "timesteps", "latency", "finetune")
    requested = sys.argv[1:] or [*POLICY_NAMES, *parts]
    model = load(MEASURED)
    data = open_data(model)
    for name in requested:
        if name == "recovery":
            keep("recovery", recovery_rows(model, data))
        elif name.startswith("head"):
            _, _, only = name.partition("/")
            heads(model, data, (float(only),) if only else HEADS)
        elif name == "free":
            keep("free", [constant_channels_row(model, data)])
        elif name == "timesteps":
            keep("timesteps", timestep_rows(model, data))
        elif name == "latency":
            keep("latency", latency_rows(model, data))
        elif name.startswith("finetune"):
            _, _, only = name.partition("/")
            finetuned(model, data, {only: FINETUNED[only]} if only else FINETUNED)
        else:
            policy, _, only = name.partition("/")
            for recover in (only,) if only else ("all", "none"):
                for seed in SEEDS.get(policy, (0,)):
                    keep("series", [series_row(model, data, Series(policy, recover, seed))])
    draw(json.loads((RESULTS / "frontier.json").read_text()))


if __name__ == "__main__":
    main()
