"""Held-out accuracy against bytes for every policy: bare, recovered, fine-tuned.

    python benchmarks/frontier.py                    # all series; hours on two cores
    python benchmarks/frontier.py greedy uniform     # some policies, bare and recovered
    python benchmarks/frontier.py greedy/none        # one of both
    python benchmarks/frontier.py recovery           # each recovery step by itself
    python benchmarks/frontier.py head               # greedy's plans, classifiers fitted anew
    python benchmarks/frontier.py head/80            # one of them
    python benchmarks/frontier.py free               # what leaves before any other channel
    python benchmarks/frontier.py timesteps          # fewer timesteps, the same weights: accuracy
    python benchmarks/frontier.py latency            # and latency, on a machine left alone
    python benchmarks/frontier.py finetune           # fine-tuned points and the dense baseline
    python benchmarks/frontier.py finetune/greedy    # those of one policy

On `common.MEASURED`. Decisions rest on search images, figures on held-out ones, in torch (an
artifact equals its model). `benchmarks/work/` keeps what an interrupted run had: the same command
goes on there. Rows in the results file are kept as they end; rows of other versions are replaced
when their series is run again.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import MEASURED, RESULTS, write
from frontier_plot import draw

from primesvt_deploy import SearchSettings, export, load, open_data
from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.input_statistics import Moments
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import recover_and_cut
from primesvt_deploy.pipeline.context import search_context
from primesvt_deploy.pipeline.frontier import frontier
from primesvt_deploy.pipeline.image_sets import image_sets
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.constant_channels import plan_without_constants
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, Recovery
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.settings import POLICY_NAMES, RECOVERY_STEPS, FinetuneSettings
from primesvt_deploy.training.finetune import finetune

SAVINGS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
DEEPER = (85.0, 90.0)
HEADS = (40.0, 50.0, 60.0, 70.0, 80.0, 85.0, 90.0)
"""Where recovery leaves something to gain."""
WHOLE = ("greedy", "all")
"""The series with the most images behind a point."""
SEARCH_IMAGES, OTHERS_SEARCH_IMAGES = 2000, 1000
OTHERS_HELD_OUT = 2000
"""Of all other series; of that one: all."""
SEEDS = {"random": (0, 1, 2)}
TIMESTEPS = (1, 2, 3, 4)
TIMESTEP_HELD_OUT = 1000
LATENCY_RUNS = 200
RECOVERIES = {
    "none": (),
    "bias": ("bias",),
    "refit": ("refit",),
    "norms": ("norms",),
    "bias, norms": ("bias", "norms"),
    "refit, norms": ("refit", "norms"),
    "all": RECOVERY_STEPS,
}
FINETUNED = {
    "greedy": (60.0, 70.0, 80.0, 50.0, 40.0, 30.0, 20.0, 10.0),
    "prioritized": (60.0, 30.0, 40.0, 50.0, 70.0, 20.0, 80.0, 10.0),
    "uniform": SAVINGS,
    "global-l2": SAVINGS,
    "random": SAVINGS,
}
"""What matters most first: each takes minutes of training."""
RECIPE = FinetuneSettings(epochs=1, learning_rate=3e-4)
MOMENTS: list[Moments] = []
WORK = Path(__file__).parent / "work" / "frontier"


def main() -> None:
    """Run the series that were asked for and write `results/frontier.json` and the plot."""
    parts = ("recovery", "head", "free", "timesteps", "latency", "finetune")
    asked = sys.argv[1:] or [*POLICY_NAMES, *parts]
    model = load(MEASURED)
    data = open_data(model)
    for name in asked:
        if name == "recovery":
            keep("recovery", recovery_rows(model, data))
        elif name.startswith("head"):
            _, _, only = name.partition("/")
            heads(model, data, (float(only),) if only else HEADS)
        elif name == "free":
            keep("free", [free_row(model, data)])
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
                    work = WORK / f"{policy}-{recover}-{seed}"
                    keep("series", [series(model, data, policy, recover, seed, work)])
    draw(json.loads((RESULTS / "frontier.json").read_text()))


def settings_of(policy: str, recover: str, seed: int = 0) -> SearchSettings:
    """No accuracy constraint: every budget is reached."""
    return SearchSettings(
        max_drop=None,
        policy=policy,
        recover=RECOVERIES[recover],
        seed=seed,
        search_images=SEARCH_IMAGES if (policy, recover) == WHOLE else OTHERS_SEARCH_IMAGES,
    )


def series(
    model: SViT,
    data: DataSet,
    policy: str,
    recover: str,
    seed: int,
    work: Path,
    savings: tuple[float, ...] = (),
) -> dict[str, Any]:
    """One policy's points, at all sizes unless told; what an interrupted run had is at `work`."""
    whole = (policy, recover) == WHOLE
    started = None if work.exists() else time.perf_counter()
    found = frontier(
        model,
        work,
        settings_of(policy, recover, seed),
        data=data,
        savings=savings or ((*SAVINGS, *DEEPER) if whole else SAVINGS),
        held_out_images=None if whole else OTHERS_HELD_OUT,
    )
    points = [
        {k: v for k, v in point.items() if k not in ("key", "channels")}
        for point in found["points"]
    ]
    print(policy, recover, seed, [p["drop"]["points"] for p in points], flush=True)
    return {
        "policy": policy,
        "recovery": recover,
        "seed": seed,
        "settings": found["settings"],
        "dense": found["dense"],
        "points": points,
        # None: an earlier run had begun, so this one did not do all of it.
        "wall_seconds": started and round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
    }


def plan_at(policy: str, saving: float, seed: int = 0) -> Plan:
    """The plan of a finished series."""
    content = json.loads((WORK / f"{policy}-all-{seed}" / "frontier.json").read_text())
    (point,) = (p for p in content["points"] if p["asked_saving_percent"] == saving)
    return Plan.from_packed(point["channels"])


def pruned_by(
    model: SViT, data: DataSet, plan: Plan, steps: tuple[str, ...], *, head: bool = False
) -> SViT:
    """The model cut to a plan, recovered by some steps."""
    context = search_context(model, replace(settings_of("greedy", "none"), recover=steps), data)
    if MOMENTS:
        vars(context.recovery)["moments"] = MOMENTS[0]  # the dense model's are the same for all
    elif steps:
        MOMENTS.append(context.recovery.moments)
    return recover_and_cut(context, plan, head=head)


def recovery_rows(model: SViT, data: DataSet) -> list[dict[str, Any]]:
    """Each recovery step by itself and together, on the same plans."""
    images = data.held_out.shuffled(0).first(OTHERS_HELD_OUT)
    dense = torch_hits(model, images)
    rows = []
    for policy, saving in (("greedy", 60.0), ("uniform", 30.0)):
        plan = plan_at(policy, saving)
        for name, steps in RECOVERIES.items():
            hits = torch_hits(pruned_by(model, data, plan, steps), images)
            rows.append(
                {
                    "plan_of": policy,
                    "asked_saving_percent": saving,
                    "recovery": name,
                    "held_out": Accuracy.of(hits).to_dict(),
                    "drop": PairedDrop.of(dense, hits).to_dict(),
                }
            )
            print(rows[-1]["plan_of"], name, rows[-1]["drop"]["points"], flush=True)
    return rows


def heads(model: SViT, data: DataSet, savings: tuple[float, ...]) -> None:
    """Our policy's plans with their classifiers fitted anew, against the same without that."""
    images = data.held_out.shuffled(0)
    dense = torch_hits(model, images)
    for saving in savings:
        plan = plan_at("greedy", saving)
        recovered = torch_hits(pruned_by(model, data, plan, RECOVERY_STEPS), images)
        started = time.perf_counter()
        refitted = pruned_by(model, data, plan, RECOVERY_STEPS, head=True)
        seconds = time.perf_counter() - started
        hits = torch_hits(refitted, images)
        row = {
            "plan_of": "greedy",
            "asked_saving_percent": saving,
            "held_out": Accuracy.of(hits).to_dict(),
            "drop": PairedDrop.of(dense, hits).to_dict(),
            "drop_without": PairedDrop.of(dense, recovered).to_dict(),
            "gained": PairedDrop.of(hits, recovered).to_dict(),
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
        }
        keep("head", [row])
        print(saving, row["drop_without"]["points"], row["drop"]["points"], flush=True)


def free_row(model: SViT, data: DataSet) -> dict[str, Any]:
    """Channels that calibration shows to be constant."""
    groups = prunable_groups(model).groups
    images = image_sets(data, settings_of("greedy", "all")).calibration
    plan = plan_without_constants(groups, Recovery(model, groups, images, RECOVERY_STEPS))
    weights = ShippedSize(model, groups)
    left = weights.bytes(plan.widths(groups)) / weights.bytes({})
    return {
        "model": model.name,
        "images": min(CALIBRATION_IMAGES, len(images)),
        "channels": sum(group.width for group in groups),
        "free_channels": sum(group.width for group in groups) - sum(plan.widths(groups).values()),
        "weights_saved_percent": round(100.0 * (1.0 - left), 3),
    }


def timestep_rows(model: SViT, data: DataSet) -> list[dict[str, Any]]:
    """The dense model and two of our policy's at fewer timesteps, norms matched or not."""
    images = data.held_out.shuffled(0).first(TIMESTEP_HELD_OUT)
    dense = torch_hits(model, images)
    calibration = image_sets(data, settings_of("greedy", "none")).calibration
    samples = torch.from_numpy(calibration.inputs(0, 128))
    rows = []
    for saving, pruned in deployed(model, data):
        for steps in TIMESTEPS:
            for matched in (True, False):
                fewer = with_timesteps(pruned, steps, samples if matched else None)
                hits = torch_hits(fewer, images)
                rows.append(
                    {
                        "asked_saving_percent": saving,
                        "T": steps,
                        "norms_matched": matched,
                        "held_out": Accuracy.of(hits).to_dict(),
                        "drop": PairedDrop.of(dense, hits).to_dict(),
                    }
                )
    return rows


def latency_rows(model: SViT, data: DataSet) -> list[dict[str, Any]]:
    """One image in ONNX Runtime on one thread, all models and T interleaved in one process."""
    image = data.held_out.inputs(0, 1)
    with tempfile.TemporaryDirectory() as directory:
        calls = {}
        for saving, pruned in deployed(model, data):
            for steps in TIMESTEPS:
                path = Path(directory) / f"{saving:g}-{steps}.onnx"
                session = OnnxModel(export(with_timesteps(pruned, steps), path).path, threads=1)
                calls[saving, steps] = partial(session.logits, image)
        found = measure_latency(
            {f"{saving:g} {steps}": call for (saving, steps), call in calls.items()},
            runs=LATENCY_RUNS,
        )
    return [
        {
            "asked_saving_percent": saving,
            "T": steps,
            "latency": found[f"{saving:g} {steps}"].to_dict(),
            "runs": LATENCY_RUNS,
            "threads": 1,
        }
        for saving, steps in calls
    ]


def deployed(model: SViT, data: DataSet) -> Iterator[tuple[float, SViT]]:
    """The dense model and two of our policy's, recovered, with the percent they save."""
    yield 0.0, model
    for saving in (60.0, 80.0):
        yield saving, pruned_by(model, data, plan_at("greedy", saving), RECOVERY_STEPS)


def finetuned(model: SViT, data: DataSet, asked: dict[str, tuple[float, ...]]) -> None:
    """Policies' points trained on, and the dense model trained as long: the fair baseline."""
    images = data.held_out.shuffled(0).first(OTHERS_HELD_OUT)
    dense_hits = torch_hits(model, images)
    baseline = trained(model, model, data, "dense")
    baseline_hits = torch_hits(baseline["model"], images)
    keep("finetuned", [finetuned_row("dense", baseline, baseline_hits, dense_hits, baseline_hits)])
    for policy, savings in asked.items():
        for seed, saving in itertools.product(SEEDS.get(policy, (0,)), savings):
            pruned = pruned_by(model, data, plan_at(policy, saving, seed), RECOVERY_STEPS)
            name = f"{policy}-{saving:g}" + (f"-{seed}" if seed else "")
            found = trained(pruned, model, data, name)
            hits = torch_hits(found["model"], images)
            row = finetuned_row(policy, found, hits, dense_hits, baseline_hits)
            keep("finetuned", [{**row, "asked_saving_percent": saving, "seed": seed}])


def trained(pruned: SViT, dense: SViT, data: DataSet, name: str) -> dict[str, Any]:
    """A fine-tuned model and what it took."""
    started = time.perf_counter()
    found = finetune(pruned, dense, data.train, RECIPE, checkpoint=WORK / f"finetune-{name}.pt")
    print(name, found.losses, f"{time.perf_counter() - started:.0f} s", flush=True)
    facts = {
        "losses": found.losses,
        "images": found.images,
        "seconds": found.seconds,
        "threads": torch.get_num_threads(),
    }
    return {"model": found.model, "facts": facts}


def finetuned_row(policy: str, found: dict[str, Any], hits: Any, dense: Any, same: Any) -> Any:
    """One fine-tuned point, against the dense model as it was and trained as long."""
    return {
        "policy": policy,
        "asked_saving_percent": 0.0,
        "seed": 0,
        "held_out": Accuracy.of(hits).to_dict(),
        "drop": PairedDrop.of(dense, hits).to_dict(),
        "drop_against_dense_trained_as_long": PairedDrop.of(same, hits).to_dict(),
        "recipe": RECIPE.to_dict(),
        **found["facts"],
    }


KEYS = {
    "series": ("policy", "recovery", "seed"),
    "recovery": ("plan_of", "asked_saving_percent", "recovery"),
    "head": ("plan_of", "asked_saving_percent"),
    "free": ("model",),
    "timesteps": ("asked_saving_percent", "T", "norms_matched"),
    "latency": ("asked_saving_percent", "T"),
    "finetuned": ("policy", "asked_saving_percent", "seed"),
}


def keep(part: str, rows: list[dict[str, Any]]) -> None:
    """Put rows into the results file in place of those of the same name."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # series may run beside each other
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


if __name__ == "__main__":
    main()
