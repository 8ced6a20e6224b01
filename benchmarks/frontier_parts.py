"""Parts of the frontier beside its series: recovery, timesteps, latency, fine-tuning."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from frontier_series import (
    OTHERS_HELD_OUT,
    RECOVERIES,
    SAVINGS,
    SEEDS,
    WORK,
    Series,
    keep,
    plan_at,
    pruned_by,
)

from primesvt_deploy import export
from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.image_sets import image_sets
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.recovery.constant_channels import plan_without_constants
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, Recovery
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.settings import RECOVERY_STEPS, FinetuneSettings
from primesvt_deploy.training.finetune import finetune

HEADS = (40.0, 50.0, 60.0, 70.0, 80.0, 85.0, 90.0)
"""Savings at which recovery alone loses accuracy, percent."""
TIMESTEPS = (1, 2, 3, 4)
TIMESTEP_HELD_OUT = 1000
LATENCY_RUNS = 200
FINETUNED = {
    "greedy": (60.0, 70.0, 80.0, 50.0, 40.0, 30.0, 20.0, 10.0),
    "prioritized": (60.0, 30.0, 40.0, 50.0, 70.0, 20.0, 80.0, 10.0),
    "uniform": SAVINGS,
    "global-l2": SAVINGS,
    "random": SAVINGS,
}
"""Percent saved by policy, the most important first: each takes minutes of training."""
RECIPE = FinetuneSettings(epochs=1, learning_rate=3e-4)


def recovery_rows(model: SViT, data: DataSet) -> list[dict[str, Any]]:
    """Rows of each recovery step by itself and together, on the same plans."""
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
    """Measure greedy's plans with their classifiers refitted, against the same without that."""
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


def constant_channels_row(model: SViT, data: DataSet) -> dict[str, Any]:
    """Row of the channels that are constant on the calibration images."""
    groups = prunable_groups(model).groups
    images = image_sets(data, Series("greedy").settings).calibration
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
    """Rows of the dense and two pruned models at fewer timesteps, norms re-estimated or not."""
    images = data.held_out.shuffled(0).first(TIMESTEP_HELD_OUT)
    dense = torch_hits(model, images)
    calibration = image_sets(data, Series("greedy", "none").settings).calibration
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
    """Rows of the latency of one image on one thread, all models and T interleaved."""
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
    """The dense model and two of greedy's, recovered, each with the percent it saves."""
    yield 0.0, model
    for saving in (60.0, 80.0):
        yield saving, pruned_by(model, data, plan_at("greedy", saving), RECOVERY_STEPS)


def finetuned(model: SViT, data: DataSet, requested: dict[str, tuple[float, ...]]) -> None:
    """Fine-tune policies' points, and the dense model as long: the fair baseline."""
    images = data.held_out.shuffled(0).first(OTHERS_HELD_OUT)
    dense_hits = torch_hits(model, images)
    baseline = trained(model, model, data, "dense")
    baseline_hits = torch_hits(baseline["model"], images)
    keep("finetuned", [finetuned_row("dense", baseline, baseline_hits, dense_hits, baseline_hits)])
    for policy, savings in requested.items():
        for seed, saving in itertools.product(SEEDS.get(policy, (0,)), savings):
            pruned = pruned_by(model, data, plan_at(policy, saving, seed), RECOVERY_STEPS)
            name = f"{policy}-{saving:g}" + (f"-{seed}" if seed else "")
            found = trained(pruned, model, data, name)
            hits = torch_hits(found["model"], images)
            row = finetuned_row(policy, found, hits, dense_hits, baseline_hits)
            keep("finetuned", [{**row, "asked_saving_percent": saving, "seed": seed}])


def trained(pruned: SViT, dense: SViT, data: DataSet, name: str) -> dict[str, Any]:
    """A fine-tuned model, and facts of its training."""
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
    """Row of a fine-tuned point, against the dense model as it was and trained as long."""
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
