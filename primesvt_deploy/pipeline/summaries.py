"""Summaries of results: a build's, from its manifest, and a frontier's, from its content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from primesvt_deploy.measure.verdict import verdict_of
from primesvt_deploy.summary import Summary, change, megabytes, points_lost, shortened, top1
from primesvt_deploy.summary.charts import accuracy_by_size

__all__ = ["build_summary", "frontier_summary"]

_MOST_POINTS = 12


def build_summary(path: Path, manifest: Mapping[str, Any]) -> Summary:
    """A bundle: what it is, before and after.

    Args:
        path: of the bundle.
        manifest: content of its `manifest.json`.
    """
    model, size, accuracy = (manifest[key] for key in ("model", "size", "accuracy"))
    constraints = manifest["constraints"]
    found = str(verdict_of(manifest).state)
    if not constraints["met"]:
        found = f"NOT met: {shortened([constraints['stopped_by']])}"
    timesteps = model["arguments"]["timesteps"]
    classes = len(model["labels"])
    return Summary(
        f"BuildResult {path}",
        (
            ("constraints", found),
            ("model", f"{model['name']}: {model['family']}, T = {timesteps}, {classes} classes"),
            ("precision", manifest["precision"]["name"]),
            ("file", _files(size, constraints)),
            ("parameters", change(*(f"{size[k]['parameters']:,}" for k in ("dense", "shipped")))),
            ("held-out top-1", _accuracies(accuracy)),
            ("latency", _latency(manifest["latency"])),
        ),
        partial(
            accuracy_by_size,
            [_point(name, size[name]["file_bytes"], accuracy[name]) for name in
             ("dense", "shipped")],
            size="model file, MB",
            accuracy="held-out top-1, %",
            budget=_budget_megabytes(constraints),
        ),
    )  # fmt: skip


def frontier_summary(title: str, content: Mapping[str, Any]) -> Summary:
    """A frontier: what each size costs.

    Args:
        title: what it is.
        content: of `frontier.json`.
    """
    dense, points = content["dense"], content["points"]
    rows = [("dense", f"{megabytes(dense['weight_bytes'])}, {top1(dense['held_out'])}")]
    for point in points[:_MOST_POINTS]:
        rows.append(
            (
                f"{point['saved_percent']:.1f}% saved",
                f"{megabytes(point['weight_bytes'])}, {top1(point['held_out'])}, "
                + points_lost(point["drop"]["points"])
                + ("" if point["met"] else ", less than was asked for"),
            )
        )
    if len(points) > _MOST_POINTS:
        rows.append(("", f"and {len(points) - _MOST_POINTS} more points"))
    sizes = [_point("", point["weight_bytes"], point["held_out"]) for point in points]
    return Summary(
        f"{title} of {content['model']}, policy {content['policy']}, held-out top-1 on "
        f"{content['data']} (n={dense['held_out']['n']})",
        tuple(rows),
        partial(
            accuracy_by_size,
            [_point("dense", dense["weight_bytes"], dense["held_out"]), *sizes],
            size="weights, MB",
            accuracy="held-out top-1, %",
        ),
    )


def _files(size: Mapping[str, Any], constraints: Mapping[str, Any]) -> str:
    sizes = change(*(megabytes(size[name]["file_bytes"]) for name in ("dense", "shipped")))
    saved = size["saved_percent"]["file"]
    budget = _budget_megabytes(constraints)
    allowed = "" if budget is None else f"; {megabytes(1e6 * budget)} were allowed"
    return f"{sizes}, {saved:.1f}% saved{allowed}"


def _budget_megabytes(constraints: Mapping[str, Any]) -> float | None:
    """Megabytes that the file might have; None where the budget counts something else."""
    if constraints["budget_on"] != "file" or constraints["budget_bytes"] is None:
        return None
    return float(constraints["budget_bytes"]) / 1e6


def _accuracies(accuracy: Mapping[str, Any]) -> str:
    low, high = accuracy["drop"]["interval95_points"]
    lost = (
        f"{points_lost(accuracy['drop']['points'])}, 95% interval of the loss "
        f"[{low:.2f}, {high:.2f}]"
    )
    shown = change(top1(accuracy["dense"]), top1(accuracy["shipped"]))
    return f"{shown}, {lost} (n={accuracy['dense']['n']})"


def _latency(latency: Mapping[str, Any]) -> str:
    medians = (f"{latency[name]['median_ms']:.2f} ms" for name in ("dense", "shipped"))
    unclear = "" if latency.get("difference_shown", True) else ", no difference shown"
    if (ends := latency.get("ratio_interval95")) and not unclear:
        unclear = f", {latency['ratio_median']:.2f}x [{ends[0]:.2f}, {ends[1]:.2f}] as fast"
    threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    return f"{change(*medians)}{unclear} (median, {threads})"


def _point(name: str, count: int, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    low, high = accuracy["interval95_percent"]
    top = accuracy["top1_percent"]
    return {"name": name, "mb": count / 1e6, "top1": top, "low": low, "high": high}
