"""The frontier: held-out accuracy against bytes, from one search.

One policy goes down from the dense model; at each asked saving its plan is judged on the search
split, recovered, cut, and reported on the held-out split, at the model's T and, if asked, at fewer
timesteps. Everything lies in one directory, `frontier.json` and the ledger, from which `build`
answers later questions; the same call goes on where an interrupted one was.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import check_recovery, settled
from primesvt_deploy.pipeline.frontier_files import SCHEMA, FrontierDirectory
from primesvt_deploy.pipeline.prune import (
    calibration_images,
    make_judge,
    question,
    search_images,
)
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, PolicyOutcome, Search
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import SearchSettings

__all__ = ["SAVINGS", "frontier"]

SAVINGS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
"""Percent of the dense weights' bytes, by default."""
_CONSTRAINTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 100.0)
"""Points, for a policy whose plans depend on them: the strictest that meets a budget is taken."""
_CALIBRATION = 128
_LATENCY_RUNS, _LATENCY_SECONDS = 50, 10.0


def frontier(
    model: SViT,
    output: str | os.PathLike[str],
    settings: SearchSettings,
    *,
    data: DataSet | None = None,
    savings: Sequence[float] = SAVINGS,
    timesteps: Sequence[int] = (),
    held_out_images: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Find the frontier of one policy and write it to a directory.

    Args:
        model: a trained SViT; it is not touched.
        output: the directory; one that another frontier stands in is refused.
        settings: policy, recovery, images, seed; a `max_drop` ends the search beyond it.
        data: default: the data bundled with the model.
        savings: percent of the weights' bytes to save, a point each.
        timesteps: T to run each point with besides the model's own.
        held_out_images: so many of the held-out split; None: all.
        progress: told of each step.

    Returns:
        What `frontier.json` holds.

    Raises:
        DataError, ModelError, SettingsError: data, timesteps or savings that cannot be.
        OutputError: the directory is in use by another frontier, or not writable.
    """
    _check(model, savings, timesteps)
    splits = data or open_data(model, seed=settings.seed)
    check_recovery(model, splits, settings)
    run = _Frontier(model, Path(output), settings, splits, held_out_images, progress)
    for saving in sorted(savings):
        run.point(saving, tuple(timesteps))
    return run.finished(tuple(timesteps))


def _check(model: SViT, savings: Sequence[float], timesteps: Sequence[int]) -> None:
    if not savings or not all(0.0 < saving < 100.0 for saving in savings):
        raise SettingsError(
            f"savings are {list(savings)}: expected percents between 0 and 100, at least one"
        )
    for steps in timesteps:
        model.at_timesteps(steps)


class _Frontier:
    """One frontier while it is made."""

    def __init__(
        self,
        model: SViT,
        output: Path,
        settings: SearchSettings,
        splits: DataSet,
        held_out_images: int | None,
        progress: Progress,
    ) -> None:
        self._model, self._settings = model, settings
        self._splits, self._progress = splits, progress
        self._held_out = splits.held_out.shuffled(settings.seed)
        if held_out_images is not None and held_out_images < 1:
            raise SettingsError(f"held-out images are {held_out_images}: expected 1 or more")
        if held_out_images is not None:
            self._held_out = self._held_out.first(held_out_images)
        if not len(self._held_out):
            raise DataError(f"{splits.name} has no held-out images: nothing could be reported")
        self._question = question(model, splits, settings)
        self._directory = FrontierDirectory(output)
        self._known = self._directory.begin(
            {"schema": SCHEMA, "question": self._question, "policy": settings.policy}
        )
        self._prunable = prunable_groups(model)
        self._groups = self._prunable.groups
        self._weights = ShippedSize(model, self._groups)
        self._started = time.perf_counter()

    def point(self, saving: float, timesteps: tuple[int, ...]) -> dict[str, Any]:
        """One point; also kept in the file before this returns."""
        outcome = self._outcome(saving)
        key = {"plan_digest": outcome.plan.digest, "n": len(self._held_out), "T": list(timesteps)}
        for known in self._known["points"]:
            if known["key"] == key and known["asked_saving_percent"] == saving:
                found: dict[str, Any] = known
                return found
        cost = self._cost()
        pruned, outcome = settled(
            self._model,
            self._groups,
            outcome,
            self._recovery,
            search_images(self._splits, self._settings),
            Ledger(self._directory.ledger),
            self._progress,
        )
        bytes_ = self._weights.bytes(outcome.plan.widths(self._groups))
        point = {
            "key": key,
            "asked_saving_percent": saving,
            "met": outcome.met,
            "stopped_by": outcome.stopped_by,
            "saved_percent": round(100.0 * (1.0 - bytes_ / self._dense_bytes), 3),
            "weight_bytes": bytes_,
            "widths": outcome.plan.widths(self._groups),
            "channels": outcome.plan.packed(self._groups),
            "search": outcome.steps[-1].drop.to_dict() if outcome.steps else None,
            **self._reported(pruned, f"{saving:g}% saved", timesteps),
            "cost": cost,
        }
        self._known["points"] = [
            p for p in self._known["points"] if p["asked_saving_percent"] != saving
        ] + [point]
        self._directory.write(self._known)
        return point

    def finished(self, timesteps: tuple[int, ...]) -> dict[str, Any]:
        """The whole content, earlier calls' points too; those that none betters are marked."""
        head = self._head()
        if at := self._dense_at(timesteps):
            head["dense"]["timesteps"] = at
        points = sorted(self._known["points"], key=lambda p: float(p["asked_saving_percent"]))
        for point in points:
            point["pareto"] = not any(_betters(other, point) for other in points)
        content = {
            **head,
            "seconds": round(time.perf_counter() - self._started, 1),
            "points": points,
        }
        self._directory.write(content)
        self._directory.close()
        return content

    @cached_property
    def _recovery(self) -> Recovery:
        images = calibration_images(self._splits, self._settings)
        return Recovery(self._model, self._groups, images, self._settings.recover)

    @cached_property
    def _search(self) -> Search:
        judge = make_judge(
            self._model,
            self._groups,
            search_images(self._splits, self._settings),
            Ledger(self._directory.ledger),
            self._settings,
            self._recovery,
        )
        self._progress.stage("dense accuracy", 1)
        self._progress.step(str(judge.dense()))

        def size_of(plan: Plan) -> int:
            return self._weights.bytes(plan.widths(self._groups))

        return Search(
            judge=judge, settings=self._settings, size_of=size_of, progress=self._progress
        )

    @property
    def _dense_bytes(self) -> int:
        return self._weights.bytes({})

    @cached_property
    def _dense_hits(self) -> npt.NDArray[np.bool_]:
        return torch_hits(self._model, self._held_out, self._progress, "held-out, dense")

    def _outcome(self, saving: float) -> PolicyOutcome:
        budget = int(self._dense_bytes * (100.0 - saving) / 100.0)
        search, policy = self._search, POLICIES[self._settings.policy]
        if policy.name != "prioritized" or self._settings.max_drop is not None:
            return policy.search(search, budget)
        for allowed in _CONSTRAINTS:
            # Its plans depend on the constraint: each is a search of its own on the same ledger.
            search.judge.allowed = allowed
            outcome = policy.search(replace(search, memory={}, _curves={}), budget)
            if outcome.met:
                break
        return outcome

    def _reported(self, pruned: SViT, name: str, timesteps: tuple[int, ...]) -> dict[str, Any]:
        """Held-out accuracy of the pruned model, at its own T and at others."""
        hits = torch_hits(pruned, self._held_out, self._progress, f"held-out, {name}")
        found: dict[str, Any] = {
            "held_out": Accuracy.of(hits).to_dict(),
            "drop": PairedDrop.of(self._dense_hits, hits).to_dict(),
        }
        if timesteps:
            found["timesteps"] = self._at(pruned, name, timesteps)
        return found

    def _dense_at(self, timesteps: tuple[int, ...]) -> list[dict[str, Any]]:
        """The dense model at other timesteps, what to compare points with."""
        known: list[dict[str, Any]] = self._known.get("dense", {}).get("timesteps", [])
        same = {(row["T"], row["held_out"]["n"]) for row in known}
        if same >= {(steps, len(self._held_out)) for steps in timesteps}:
            return known
        return self._at(self._model, "dense", timesteps)

    def _at(self, model: SViT, name: str, timesteps: tuple[int, ...]) -> list[dict[str, Any]]:
        calibration = calibration_images(self._splits, self._settings)
        count = min(len(calibration), model.batch_of(_CALIBRATION))
        samples = torch.from_numpy(calibration.inputs(0, count))
        rows = []
        with tempfile.TemporaryDirectory() as directory:
            calls = {}
            inputs = self._held_out.inputs(0, 1)
            for steps in timesteps:
                fewer = with_timesteps(model, steps, samples)
                stage = f"held-out, {name}, T = {steps}"
                hits = torch_hits(fewer, self._held_out, self._progress, stage)
                rows.append(
                    {
                        "T": steps,
                        "held_out": Accuracy.of(hits).to_dict(),
                        "drop": PairedDrop.of(self._dense_hits, hits).to_dict(),
                    }
                )
                artifact = export_onnx(fewer, Path(directory) / f"{steps}.onnx")
                session = OnnxModel(artifact.path)
                calls[str(steps)] = lambda session=session: session.logits(inputs)
            latency = measure_latency(calls, runs=_LATENCY_RUNS, seconds=_LATENCY_SECONDS)
        return [{**row, "latency": latency[str(row["T"])].to_dict()} for row in rows]

    def _cost(self) -> dict[str, Any]:
        """What the search has cost so far; images are those that candidates were run on."""
        candidates = list(Ledger(self._directory.ledger))
        return {
            "evaluations": len(candidates),
            "images": sum(candidate.n for candidate in candidates),
            "seconds": round(sum(candidate.seconds for candidate in candidates), 1),
        }

    def _head(self) -> dict[str, Any]:
        judge = self._search.judge
        return {
            "schema": SCHEMA,
            "question": self._question,
            "model": self._model.name,
            "data": self._splits.name,
            "policy": self._settings.policy,
            "settings": self._settings.to_dict(),
            "dense": {
                "weight_bytes": self._dense_bytes,
                "search": judge.dense().to_dict(),
                "held_out": Accuracy.of(self._dense_hits).to_dict(),
            },
        }


def _betters(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a point is no worse in bytes and search drop than another, and better in one."""
    a = one["weight_bytes"], _lost(one)
    b = other["weight_bytes"], _lost(other)
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def _lost(point: dict[str, Any]) -> float:
    return float(point["search"]["points"]) if point["search"] else 0.0
