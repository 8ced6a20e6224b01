"""`frontier`: held-out accuracy against bytes, from one search.

One policy goes down from the dense model; at each requested saving its plan is judged on the search
images, applied, and reported on the held-out images, at the model's T and, on request, at fewer
timesteps. Everything lies in one directory, `frontier.json` and the ledger, from which `build`
answers later budgets; the same call goes on where an interrupted one was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.pixel_cache import read_ahead
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import DataError
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead import frontier_ahead
from primesvt_deploy.pipeline.apply_plan import AppliedPlan, apply_plan
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.frontier_files import FrontierWriter, check_points
from primesvt_deploy.pipeline.frontier_schema import SCHEMA
from primesvt_deploy.pipeline.image_sets import decoded_once, search_key
from primesvt_deploy.pipeline.open_context import check_recovery, search_context
from primesvt_deploy.pipeline.prune import make_search
from primesvt_deploy.pipeline.summaries import frontier_summary
from primesvt_deploy.pipeline.workers import driver_device
from primesvt_deploy.progress import AUTOMATIC, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, PolicyOutcome, Search
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import ComputeSettings, SearchSettings
from primesvt_deploy.summary import Shown, Summary

__all__ = ["SAVINGS", "FrontierResult", "frontier"]

SAVINGS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
"""Percent of the dense weights' bytes, by default."""
_CONSTRAINTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 100.0)
"""Points, for a policy whose plans depend on them: the strictest that meets a budget is taken."""
_CALIBRATION = 128
_LATENCY_RUNS, _LATENCY_SECONDS = 50, 10.0


class FrontierResult(Shown, dict[str, Any]):
    """The content of `frontier.json`, which shows itself as its points."""

    def _summary(self) -> Summary:
        return frontier_summary("FrontierResult", self)


@drawn_by_default
def frontier(
    model: SViT,
    output: str | os.PathLike[str],
    settings: SearchSettings,
    *,
    data: DataSet | None = None,
    savings: Sequence[float] = SAVINGS,
    timesteps: Sequence[int] = (),
    held_out_images: int | None = None,
    compute: ComputeSettings = ComputeSettings(),
    progress: Progress = AUTOMATIC,
) -> FrontierResult:
    """Find the frontier of one policy and write it to a directory.

    Args:
        model: a trained SViT; it is not touched.
        output: the directory; one that another frontier stands in is refused.
        settings: policy, recovery, images, seed; a `max_drop` ends the search beyond it.
        data: default: the data bundled with the model.
        savings: percent of the weights' bytes to save, a point each.
        timesteps: T to run each point with besides the model's own.
        held_out_images: so many of the held-out split; None: all.
        compute: where it computes.
        progress: gets each step; default: a bar on a terminal or in a notebook, elsewhere nothing;
            `SILENT`: nothing.

    Returns:
        The content of `frontier.json`.

    Raises:
        DataError, ModelError, SettingsError: data, timesteps, savings or a device that cannot be.
        OutputError: the directory is in use by another frontier, or not writable.
    """
    started = time.perf_counter()
    check_points(savings, timesteps, held_out_images)
    driver_device(compute)
    for steps in timesteps:
        model.at_timesteps(steps)
    splits = data or open_data(model, seed=settings.seed)
    check_recovery(model, splits, settings)
    _held_out(splits, settings, held_out_images)
    key = search_key(model, splits, settings)
    with FrontierWriter(Path(output), key=key, policy=settings.policy) as writer:
        splits = decoded_once(splits, settings, writer.decoded, progress, held_out=held_out_images)
        held_out = _held_out(splits, settings, held_out_images)
        ledger = Ledger(writer.ledger_path)
        wanted = sorted(savings)
        with search_context(
            model,
            settings,
            splits,
            ledger=ledger,
            compute=compute,
            progress=progress,
            ahead=lambda search: frontier_ahead(search, held_out, wanted, timesteps),
        ) as context:
            run = _Run(context, held_out, tuple(timesteps))
            for number, saving in enumerate(wanted):
                _add_point(run, writer, saving)
                left = wanted[number + 1 :]
                progress.plan(frontier_ahead(context, held_out, left, timesteps, begun=True))
            content = _finish(run, writer, key, started)
        shutil.rmtree(writer.decoded, ignore_errors=True)
        return FrontierResult(content)


def _held_out(splits: DataSet, settings: SearchSettings, count: int | None) -> ImageList:
    """The held-out images that points are reported on."""
    images = splits.held_out.shuffled(settings.seed)
    images = images if count is None else images.first(count)
    if not len(images):
        raise DataError(f"{splits.name} has no held-out images: nothing could be reported")
    return images


@dataclass(frozen=True)
class _Run:
    """A frontier's search and what its points are reported on.

    Args:
        context: of the search.
        held_out: images that points are reported on.
        timesteps: T to report each point at besides the model's own.
    """

    context: SearchContext
    held_out: ImageList
    timesteps: tuple[int, ...]

    @cached_property
    def weights(self) -> ShippedSize:
        """Bytes of weights under any widths."""
        return ShippedSize(self.context.model, self.context.prunable.groups)

    @cached_property
    def search(self) -> Search:
        """The policy's search, one for all savings."""
        constraint = AccuracyConstraint(self.context.settings.max_drop)
        return make_search(self.context, constraint, self.bytes_of)

    @cached_property
    def dense_hits(self) -> npt.NDArray[np.bool_]:
        """Per held-out image, whether the dense model classifies it rightly."""
        return self.hits(self.context.model, "held-out, dense")

    def hits(self, model: SViT, stage: str) -> npt.NDArray[np.bool_]:
        """Per held-out image, whether a model classifies it rightly; a stage of this name."""
        context = self.context
        read_ahead(self.held_out, context.progress)
        return torch_hits(model, self.held_out, context.progress, stage, device=context.device)

    def bytes_of(self, plan: Plan) -> int:
        """Bytes of weights under a plan."""
        return self.weights.bytes(plan.widths(self.context.prunable.groups))


def _add_point(run: _Run, writer: FrontierWriter, saving: float) -> None:
    """Find the point of one saving and keep it in the file, unless it stands there."""
    outcome = _outcome(run, saving)
    key = {
        "plan_digest": outcome.plan.digest,
        "n": len(run.held_out),
        "T": list(run.timesteps),
    }
    content = writer.read()
    points = content["points"]
    if any(p["key"] == key and p["asked_saving_percent"] == saving for p in points):
        return
    cost = _cost(run.context.ledger)
    applied = apply_plan(run.context, outcome.plan)
    point = {
        "key": key,
        "asked_saving_percent": saving,
        **_point(run, outcome, applied),
        **_reported(run, applied.model, f"{saving:g}% saved"),
        "cost": cost,
    }
    others = [p for p in points if p["asked_saving_percent"] != saving]
    writer.write({**content, "points": [*others, point]})


def _outcome(run: _Run, saving: float) -> PolicyOutcome:
    """The policy's plan for one saving, percent of the dense weights' bytes."""
    settings = run.context.settings
    budget = int(run.bytes_of(Plan()) * (100.0 - saving) / 100.0)
    policy = POLICIES[settings.policy]
    if policy.name != "prioritized" or settings.max_drop is not None:
        return _measured(run, policy.search(run.search, budget))
    for allowed in _CONSTRAINTS:
        # Its plans depend on the constraint: each is a search of its own on the same ledger.
        search = replace(run.search, constraint=AccuracyConstraint(allowed))
        outcome = policy.search(search, budget)
        if outcome.met:
            break
    return _measured(run, outcome)


def _measured(run: _Run, outcome: PolicyOutcome) -> PolicyOutcome:
    """The outcome with its plan's drop on all search images: points are compared by it."""
    if not outcome.steps:
        return outcome
    *before, last = outcome.steps
    groups = {group.name: group for group in run.context.prunable.groups}
    group = groups.get(last.group)
    whole = run.context.judge.judge(outcome.plan, step=last.step, group=group, rate=last.rate)
    return replace(outcome, steps=(*before, whole), drop_points=whole.drop.points)


def _point(run: _Run, outcome: PolicyOutcome, applied: AppliedPlan) -> dict[str, Any]:
    """The plan of a point and its drop on the search images."""
    groups, dense_bytes = run.context.prunable.groups, run.bytes_of(Plan())
    weight_bytes = run.bytes_of(outcome.plan)
    last = applied.refitted or (outcome.steps[-1] if outcome.steps else None)
    return {
        "met": outcome.met,
        "stopped_by": outcome.stopped_by,
        "saved_percent": round(100.0 * (1.0 - weight_bytes / dense_bytes), 3),
        "weight_bytes": weight_bytes,
        "widths": outcome.plan.widths(groups),
        "channels": outcome.plan.packed(groups),
        "search": last.drop.to_dict() if last else None,
    }


def _cost(ledger: Ledger) -> dict[str, Any]:
    """Cost of the search so far; images are those that candidates were run on."""
    candidates = list(ledger)
    return {
        "evaluations": len(candidates),
        "images": sum(candidate.n for candidate in candidates),
        "seconds": round(sum(candidate.seconds for candidate in candidates), 1),
    }


def _reported(run: _Run, pruned: SViT, name: str) -> dict[str, Any]:
    """Held-out accuracy of the pruned model, at its own T and at others."""
    hits = run.hits(pruned, f"held-out, {name}")
    found: dict[str, Any] = _accuracy(run, hits)
    if run.timesteps:
        found["timesteps"] = _at_timesteps(run, pruned, name)
    return found


def _accuracy(run: _Run, hits: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "held_out": Accuracy.of(hits).to_dict(),
        "drop": PairedDrop.of(run.dense_hits, hits).to_dict(),
    }


def _at_timesteps(run: _Run, model: SViT, name: str) -> list[dict[str, Any]]:
    """Held-out accuracy and latency of a model at each other T."""
    calibration = run.context.image_sets().calibration
    count = min(len(calibration), model.batch_of(_CALIBRATION))
    samples = torch.from_numpy(calibration.inputs(0, count))
    rows, calls = [], {}
    inputs = run.held_out.inputs(0, 1)
    with tempfile.TemporaryDirectory() as directory:
        for steps in run.timesteps:
            fewer = with_timesteps(model, steps, samples, device=run.context.device)
            hits = run.hits(fewer, f"held-out, {name}, T = {steps}")
            rows.append({"T": steps, **_accuracy(run, hits)})
            session = OnnxModel(export_onnx(fewer, Path(directory) / f"{steps}.onnx").path)
            calls[str(steps)] = lambda session=session: session.logits(inputs)
        progress = run.context.progress
        progress.stage(f"latency, {name}", 1)
        latency = measure_latency(
            calls, runs=_LATENCY_RUNS, seconds=_LATENCY_SECONDS, progress=progress
        )
        progress.step()
    return [{**row, "latency": latency[str(row["T"])].to_dict()} for row in rows]


def _finish(run: _Run, writer: FrontierWriter, key: str, started: float) -> dict[str, Any]:
    """Write the whole content, with earlier calls' points; Pareto-optimal points are marked."""
    cached = writer.read()
    points = sorted(cached["points"], key=lambda p: float(p["asked_saving_percent"]))
    for point in points:
        point["pareto"] = not any(_dominates(other, point) for other in points)
    content = {
        **_head(run, key, _dense_at_timesteps(run, cached)),
        "seconds": round(time.perf_counter() - started, 1),
        "points": points,
    }
    writer.write(content)
    return content


def _dense_at_timesteps(run: _Run, cached: dict[str, Any]) -> list[dict[str, Any]]:
    """The dense model at other timesteps, to compare points with."""
    rows: list[dict[str, Any]] = cached.get("dense", {}).get("timesteps", [])
    same = {(row["T"], row["held_out"]["n"]) for row in rows}
    if same >= {(steps, len(run.held_out)) for steps in run.timesteps}:
        return rows
    return _at_timesteps(run, run.context.model, "dense")


def _head(run: _Run, key: str, dense_timesteps: list[dict[str, Any]]) -> dict[str, Any]:
    context = run.context
    dense = {
        "weight_bytes": run.bytes_of(Plan()),
        "search": context.judge.dense().to_dict(),
        "held_out": Accuracy.of(run.dense_hits).to_dict(),
    }
    return {
        "schema": SCHEMA,
        "question": key,
        "model": context.model.name,
        "data": context.image_sets().data.name,
        "policy": context.settings.policy,
        "settings": context.settings.to_dict(),
        "dense": {**dense, "timesteps": dense_timesteps} if dense_timesteps else dense,
    }


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a point Pareto-dominates another in bytes and search drop."""
    a = one["weight_bytes"], _lost(one)
    b = other["weight_bytes"], _lost(other)
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def _lost(point: dict[str, Any]) -> float:
    return float(point["search"]["points"]) if point["search"] else 0.0
