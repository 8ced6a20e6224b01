"""Series of frontier points: their settings, their plans, and their rows in the results file."""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import MEASURED, RESULTS, write

from primesvt_deploy import SearchSettings
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import recover_and_cut
from primesvt_deploy.pipeline.frontier import frontier
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.settings import RECOVERY_STEPS

SAVINGS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
DEEPER_SAVINGS = (85.0, 90.0)
SEARCH_IMAGES, OTHERS_SEARCH_IMAGES = 2000, 1000
"""Search images of the main series, and of all others."""
OTHERS_HELD_OUT = 2000
"""Held-out images of all series but the main one, which has all."""
SEEDS = {"random": (0, 1, 2)}
RECOVERIES = {
    "none": (),
    "bias": ("bias",),
    "refit": ("refit",),
    "norms": ("norms",),
    "bias, norms": ("bias", "norms"),
    "refit, norms": ("refit", "norms"),
    "all": RECOVERY_STEPS,
}
WORK = Path(__file__).parent / "work" / "frontier"
KEYS = {
    "series": ("policy", "recovery", "seed"),
    "recovery": ("plan_of", "asked_saving_percent", "recovery"),
    "head": ("plan_of", "asked_saving_percent"),
    "free": ("model",),
    "timesteps": ("asked_saving_percent", "T", "norms_matched"),
    "latency": ("asked_saving_percent", "T"),
    "finetuned": ("policy", "asked_saving_percent", "seed"),
}


@dataclass(frozen=True)
class Series:
    """A policy with or without recovery, and a seed: no accuracy limit, so all sizes are reached.

    Args:
        policy: name of the policy.
        recovery: a name in `RECOVERIES`.
        seed: seed of the search.
    """

    policy: str
    recovery: str = "all"
    seed: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is the series with the most images: greedy with recovery."""
        return (self.policy, self.recovery) == ("greedy", "all")

    @property
    def work(self) -> Path:
        """Directory from which it goes on after an interruption."""
        return WORK / f"{self.policy}-{self.recovery}-{self.seed}"

    @property
    def settings(self) -> SearchSettings:
        """Settings of its search."""
        return SearchSettings(
            max_drop=None,
            policy=self.policy,
            recover=RECOVERIES[self.recovery],
            seed=self.seed,
            search_images=SEARCH_IMAGES if self.is_main else OTHERS_SEARCH_IMAGES,
        )


def series_row(
    model: SViT,
    data: DataSet,
    series: Series,
    *,
    work: Path | None = None,
    savings: tuple[float, ...] = (),
) -> dict[str, Any]:
    """Search a series' points; the row of the results file.

    Args:
        model: the dense model.
        data: its data set.
        series: the series.
        work: directory from which it goes on after an interruption; None: the series' own.
        savings: percent of the weights to save; empty: all sizes.
    """
    work = work or series.work
    started = None if work.exists() else time.perf_counter()
    found = frontier(
        model,
        work,
        series.settings,
        data=data,
        savings=savings or ((*SAVINGS, *DEEPER_SAVINGS) if series.is_main else SAVINGS),
        held_out_images=None if series.is_main else OTHERS_HELD_OUT,
    )
    points = [
        {k: v for k, v in point.items() if k not in ("key", "channels")}
        for point in found["points"]
    ]
    print(series, [p["drop"]["points"] for p in points], flush=True)
    return {
        "policy": series.policy,
        "recovery": series.recovery,
        "seed": series.seed,
        "settings": found["settings"],
        "dense": found["dense"],
        "points": points,
        # None: an earlier run had begun, so this one did not do all of it.
        "wall_seconds": started and round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
    }


def plan_at(policy: str, saving: float, seed: int = 0) -> Plan:
    """The plan of a finished series with recovery, at a saving in percent."""
    content = json.loads((Series(policy, seed=seed).work / "frontier.json").read_text())
    (point,) = (p for p in content["points"] if p["asked_saving_percent"] == saving)
    return Plan.from_packed(point["channels"])


def pruned_by(
    model: SViT, data: DataSet, plan: Plan, steps: tuple[str, ...], *, head: bool = False
) -> SViT:
    """The model cut to a plan, recovered by the steps, its classifier refitted if `head`."""
    context = search_context(model, replace(Series("greedy", "none").settings, recover=steps), data)
    return recover_and_cut(context, plan, head=head)


def keep(part: str, rows: list[dict[str, Any]]) -> None:
    """Put rows into the results file in place of those with the same keys."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several series may run at once
        _keep(part, rows)


def _keep(part: str, rows: list[dict[str, Any]]) -> None:
    path = RESULTS / "frontier.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    names = [tuple(row[key] for key in KEYS[part]) for row in rows]
    others = [
        row for row in content.get(part, ()) if tuple(row[key] for key in KEYS[part]) not in names
    ]
    merged = {name: content.get(name, []) for name in KEYS} | {part: others + rows}
    write("frontier", {"model": MEASURED, **merged})
