"""Bundles side by side: one table, one plot, and what each keeps of every layer."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from primesvt_deploy.report import rows
from primesvt_deploy.report.charts.several import kept_shares, sizes_and_accuracies
from primesvt_deploy.report.content import ReportContent
from primesvt_deploy.report.numbers import fixed, interval, size
from primesvt_deploy.report.page import render_page
from primesvt_deploy.report.read import BundleReport
from primesvt_deploy.report.verdict import judge

__all__ = ["render_comparison"]

_SECTIONS = (
    ("summary", "All bundles"),
    ("figure", "Size and accuracy"),
    ("layers", "What each layer keeps"),
    ("next", "What to try next"),
)


def render_comparison(bundles: Sequence[BundleReport]) -> str:
    """Render a page of several bundles, in the order given.

    Args:
        bundles: two or more; they may be of different models and data, which the page says.

    Returns:
        HTML that refers to nothing outside; the same for the same bundles.
    """
    widths = [_widths(bundle.plan) for bundle in bundles]
    figures = {
        "several": sizes_and_accuracies([_point(i, b) for i, b in enumerate(bundles, 1)]),
        "kept": kept_shares(widths),
    }
    layers = list(dict.fromkeys(layer for found in widths for layer in found))
    values = {
        "bundles": [_row(bundle) for bundle in bundles],
        "figures": figures,
        "differences": list(_differences(bundles)),
        "widths": widths,
        "layers": layers,
        "bench": shlex.join(["primesvt-deploy", "bench", *(b.path for b in bundles)]),
        "single": shlex.join(["primesvt-deploy", "report", bundles[0].path]),
    }
    drawn = [figure for figure in figures.values() if figure]
    return render_page("comparison.html.j2", values, drawn, _SECTIONS)


def _point(number: int, bundle: BundleReport) -> dict[str, object]:
    manifest = bundle.manifest
    shipped, file_bytes = manifest["accuracy"]["shipped"], manifest["size"]["shipped"]["file_bytes"]
    low, high = shipped["interval95_percent"]
    ends = interval((low, high))
    return {
        "label": bundle.path,
        "number": number,
        "mb": file_bytes / 1e6,
        "top1": shipped["top1_percent"],
        "low": low,
        "high": high,
        "size": size(file_bytes),
        "accuracy": f"{fixed(shipped['top1_percent'], 2, '%')} {ends}",
    }


def _row(bundle: BundleReport) -> dict[str, Any]:
    manifest, content = bundle.manifest, bundle.content or ReportContent()
    policy = manifest.get("policy") or {}
    peaks = [stage.shipped for stage in content.memory if stage.shipped is not None]
    return {
        "path": bundle.path,
        "verdict": judge(manifest),
        "model": manifest["model"],
        "precision": (manifest.get("precision") or {}).get("name"),
        "policy": policy.get("policy") or policy.get("name"),
        "size": manifest["size"],
        "accuracy": manifest["accuracy"],
        "latency": manifest["latency"],
        "peak": max(peaks, default=None),
        "energy": rows.total_energy(content.energy)["shipped"] or None,
        "constraints": manifest["constraints"],
    }


def _widths(plan: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Channels kept and before of each layer, as far as they are known."""
    return {
        row["layer"]: (int(row["after"]), int(row["width"]))
        for row in rows.groups(plan)
        if row["width"] and row["after"] is not None
    }


def _differences(bundles: Sequence[BundleReport]) -> Iterator[str]:
    """Sentences on what makes figures hard to compare."""
    for what, key, why in (
        ("models", _model, "sizes and accuracies are of different things"),
        ("data", _data, "their accuracies do not compare"),
        ("processors", _processor, "their run times do not compare"),
    ):
        found = list(dict.fromkeys(key(bundle.manifest) for bundle in bundles))
        if len(found) > 1:
            yield f"The bundles have different {what} ({'; '.join(found)}): {why}."


def _model(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['model']['name']}, {manifest['model'].get('family')}"


def _data(manifest: Mapping[str, Any]) -> str:
    accuracy = manifest["accuracy"]
    digest = str(accuracy.get("data_digest") or "")[:8]
    return f"{accuracy.get('data')} {digest}, n = {accuracy['shipped']['n']}".strip()


def _processor(manifest: Mapping[str, Any]) -> str:
    latency = manifest["latency"]
    return f"{latency['cpu']}, {latency['threads']} threads, batch {latency['batch']}"
