"""The report of one bundle: what decides first, what explains it below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from primesvt_deploy.report import rows
from primesvt_deploy.report.charts import classes, costs, firing, loss, robustness, search, sizes
from primesvt_deploy.report.charts.style import Figure
from primesvt_deploy.report.class_counts import count_classes, most_confused
from primesvt_deploy.report.content import ReportContent
from primesvt_deploy.report.next_steps import build_command, next_steps
from primesvt_deploy.report.numbers import energy, number
from primesvt_deploy.report.page import render_page
from primesvt_deploy.report.speed import disturbances, speed_in_words, speed_sentence
from primesvt_deploy.report.tiles import tiles
from primesvt_deploy.report.verdict import judge
from primesvt_deploy.report.why import better_than_shipped, why_these_layers

__all__ = ["render_report"]

_SHOWN = (
    *("tool", "created", "model", "constraints", "size", "accuracy", "latency"),
    *("precision", "finetune", "anytime", "notes", "left_unpruned"),
    *("verification", "policy", "compute", "seconds", "versions", "files"),
)
"""Keys of a manifest that the page shows."""
_SECTIONS = {
    "summary": "Verdict",
    "headline": "Before and after",
    "next": "What to try next",
    "bytes": "Bytes by layer",
    "search": "Size and accuracy",
    "robustness": "Robustness",
    "precision": "Precision",
    "cost": "Time, memory, energy",
    "spikes": "Spikes",
    "sample": "One image",
    "classes": "Classes",
    "verification": "Verification",
    "made": "How it was made",
}
_FROM_CONTENT = ("bytes", "spikes", "sample", "classes")
"""Sections that show nothing but a report's content."""
_MOST_CONFUSED = 20


def render_report(
    manifest: Mapping[str, Any],
    plan: Mapping[str, Any],
    content: ReportContent | None,
    *,
    bundle: str = "bundle",
) -> str:
    """Render the page of a bundle; values that the inputs lack show as an en dash.

    Args:
        manifest: content of `manifest.json`, with or without `files`.
        plan: content of `plan.json`.
        content: what its figures show; None: it was not kept, and the page says so.
        bundle: path of the bundle, as commands name it.

    Returns:
        HTML that refers to nothing outside; the same for the same inputs.
    """
    shown = content or ReportContent()
    figures = _figures(manifest, plan, shown)
    rasters: list[dict[str, Any]] = [
        {"layer": spikes.layer, "figure": found}
        for index, spikes in enumerate(shown.sample.rasters if shown.sample else ())
        if (found := firing.raster(index, spikes))
    ]
    curves, groups = rows.curves(plan), rows.groups(plan)
    policy = manifest.get("policy") or {}
    values = {key: manifest.get(key) for key in _SHOWN} | {
        "plan": plan,
        "content": content,
        "figures": figures,
        "verdict": judge(manifest),
        "tiles": tiles(manifest, shown),
        "speed": speed_in_words(manifest.get("latency")),
        "speed_sentence": speed_sentence(manifest.get("latency")),
        "layers": rows.layer_bytes(shown.layers),
        "totals": rows.total_bytes(shown.layers),
        "surely": {
            decision: sum(plan.decision == decision for plan in shown.tried)
            for decision in ("within", "beyond")
        },
        "enough_images": search.enough_images(shown.tried),
        "why": why_these_layers(
            str(policy.get("policy") or policy.get("name")), groups, plan, shown.sensitivity
        ),
        "groups": groups,
        "streams": [row["layer"] for row in groups if row["layer"].split(".")[0] == "residual"],
        "better": better_than_shipped(shown.tried, manifest),
        "disturbed": disturbances(manifest.get("latency")),
        "curves": curves,
        "curve_images": rows.most_images(curves),
        "rates": sorted({rate for curve in curves for rate in curve["points"]}),
        "real_layers": rows.by_reason((manifest.get("precision") or {}).get("real_layers") or {}),
        "energy": rows.total_energy(shown.energy),
        "idle": rows.idle(shown.firing),
        "rate_key": firing.rate_key(),
        "attention": rows.attention(shown.sample),
        "rasters": rasters,
        "class_counts": count_classes(shown.confusion, shown.classes),
        "confused": most_confused(shown.confusion, shown.classes, _MOST_CONFUSED),
        "flips": rows.flips(manifest.get("verification") or {}),
        "steps": next_steps(manifest, bundle),
        "build": build_command(manifest, output=bundle),
    }
    values["layers_measured"] = _of_layers(figures)
    drawn = [figure for figure in figures.values() if figure]
    drawn += [raster["figure"] for raster in rasters]
    hidden = {name for name in _FROM_CONTENT if content is None}
    hidden |= set() if shown.sample else {"sample"}
    titles = _SECTIONS | {"robustness": _of_layers(figures)}
    sections = [(name, text) for name, text in titles.items() if name not in hidden]
    return render_page("report.html.j2", values, drawn, sections)


def _of_layers(figures: Mapping[str, Figure | None]) -> str:
    """Title of what was measured of each layer alone."""
    only = figures["sensitivity"] and not figures["robustness"]
    return "Sensitivity" if only else "Robustness"


def _figures(
    manifest: Mapping[str, Any], plan: Mapping[str, Any], content: ReportContent
) -> dict[str, Figure | None]:
    """All charts by the names that the template has for them; None: there is nothing to draw."""
    most = number((manifest.get("constraints") or {}).get("max_drop_points"))
    curves: Sequence[Mapping[str, Any]] = plan.get("robustness") or ()
    return {
        "loss": loss.loss_interval(manifest),
        "bytes": sizes.layer_bytes(content.layers),
        "search": search.size_and_accuracy(content.tried, manifest),
        "robustness": robustness.robustness(curves, plan.get("widths") or {}, most),
        "sensitivity": robustness.sensitivity(content.sensitivity, content.sensitivity_of),
        "precisions": costs.precisions(manifest),
        "latency": costs.latency(manifest.get("latency")),
        "memory": costs.memory(content.memory),
        "energy": sizes.layer_energy(content.energy, energy),
        "firing": firing.firing_rates(content.firing),
        "idle": firing.idle_channels(content.firing),
        "timesteps": firing.by_timestep(content.firing),
        "confusion": classes.confusion(content.confusion, content.classes),
        "classes": classes.per_class(count_classes(content.confusion, content.classes)),
    }
