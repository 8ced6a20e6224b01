"""Rows of the report's tables, from a bundle's plan, manifest and content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from primesvt_deploy.report.content import LayerBytes, LayerEnergy, LayerFiring, SampleImage
from primesvt_deploy.report.numbers import number

__all__ = [
    "attention",
    "by_reason",
    "curves",
    "flips",
    "groups",
    "idle",
    "layer_bytes",
    "most_images",
    "total_bytes",
    "total_energy",
]

_DARKEST = 0.82
"""How dark an image is drawn where the attention is least."""


def layer_bytes(layers: Sequence[LayerBytes]) -> list[dict[str, Any]]:
    """Bytes of each layer, with shares of the whole model that sum to 1."""
    total = total_bytes(layers)
    return [
        {
            "layer": entry.layer,
            "group": entry.group,
            "dense": entry.dense,
            "dense_share": entry.dense / (total["dense"] or 1),
            "shipped": entry.shipped,
            "shipped_share": entry.shipped / (total["shipped"] or 1),
            "change": _change(entry.dense, entry.shipped),
        }
        for entry in layers
    ]


def total_bytes(layers: Sequence[LayerBytes]) -> dict[str, Any]:
    """Bytes of all layers together, and their change in percent."""
    dense, shipped = (sum(getattr(e, m) for e in layers) for m in ("dense", "shipped"))
    return {"dense": dense, "shipped": shipped, "change": _change(dense, shipped)}


def _change(before: float, after: float) -> float | None:
    """Change in percent; None: there was nothing before."""
    return 100.0 * (after / before - 1.0) if before else None


def total_energy(layers: Sequence[LayerEnergy]) -> dict[str, float]:
    """Picojoules of all layers, of both models."""
    return {m: sum(getattr(e, m) or 0.0 for e in layers) for m in ("dense", "shipped")}


def idle(layers: Sequence[LayerFiring]) -> dict[str, int]:
    """Channels of all layers, and those of them that never or always fire."""
    names = ("channels", "silent", "constant")
    return {name: sum(getattr(entry, name) for entry in layers) for name in names}


def groups(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Channels that each layer keeps, in the policy's order, with the last step that pruned it.

    A policy that prunes all layers at once has no steps of single layers.
    """
    steps = (plan.get("policy") or {}).get("steps") or ()
    last = {str(step.get("layer")): step for step in steps if step.get("layer") != "all"}
    # Bundles of earlier versions have widths before pruning only where robustness was measured.
    whole = [*(plan.get("groups") or ()), *(plan.get("robustness") or ())]
    measured = {str(layer.get("layer")): layer for layer in whole}
    widths = plan.get("widths") or {}
    kept = {name: len(indices) for name, indices in (plan.get("kept") or {}).items()}
    found = []
    for name in dict.fromkeys([*measured, *widths, *last]):
        step, curve = last.get(name), measured.get(name) or {}
        width = curve.get("width")
        after = number(widths.get(name, kept.get(name)))
        after = number(step.get("kept")) if after is None and step else after
        removed = 1 - after / width if width and after is not None else (step or {}).get("rate")
        found.append(
            {
                "layer": name,
                "heads": curve.get("heads"),
                "target": curve.get("target"),
                "width": width,
                "after": after,
                "removed": removed,
                "drop": (step or {}).get("drop"),
            }
        )
    return found


def curves(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Robustness curves with their points by rate; a rate that removes nothing has none."""
    found = []
    for curve in plan.get("robustness") or ():
        points = {p["rate"]: p for p in curve.get("curve") or () if p.get("rate") is not None}
        if points:
            found.append({**curve, "points": points})
    return found


def most_images(measured: Sequence[Mapping[str, Any]]) -> int | None:
    """Images behind the points of curves, at most."""
    return max(
        (p.get("n") or 0 for curve in measured for p in curve["points"].values()), default=None
    )


def by_reason(layers: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Layers that were left out of something, by the reason."""
    found: dict[str, list[str]] = {}
    for layer, reason in layers.items():
        found.setdefault(reason, []).append(layer)
    return list(found.items())


def flips(verification: Mapping[str, Any]) -> dict[str, Any]:
    """Layers with flipped spikes, and the number of timesteps."""
    found = [row for row in verification.get("flips") or () if any(row.get("by_timestep") or ())]
    return {"rows": found, "timesteps": max((len(row["by_timestep"]) for row in found), default=0)}


def attention(sample: SampleImage | None) -> dict[str, Any] | None:
    """Tokens of an attention map, with how dark each is drawn; None: there is no map."""
    grid = sample.attention if sample else ()
    if not grid or not grid[0]:
        return None
    values = [value for line in grid for value in line]
    low, span = min(values), (max(values) - min(values)) or 1.0
    cells = [
        {"x": x, "y": y, "value": value, "veil": round(_DARKEST * (1 - (value - low) / span), 3)}
        for y, line in enumerate(grid)
        for x, value in enumerate(line)
    ]
    return {"rows": len(grid), "columns": len(grid[0]), "cells": cells}
