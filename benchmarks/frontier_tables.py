"""README's tables of `results/frontier.json` and `results/frontier_models.json`."""

from __future__ import annotations

from statistics import median
from typing import Any

__all__ = [
    "finetuned_table",
    "frontier_table",
    "head_table",
    "other_models_table",
    "recovery_table",
    "timesteps_table",
]

_POLICIES = ("greedy", "prioritized", "uniform", "global-l2", "random")


def frontier_table(found: dict[str, Any]) -> str:
    """Table of points lost at each saving, by policy, recovered and bare."""
    lines = [
        *_policies_table(found["series"], "all", "recovered"),
        "",
        *_policies_table(found["series"], "none", "bare"),
    ]
    whole = next(s for s in found["series"] if (s["policy"], s["recovery"]) == ("greedy", "all"))
    others = sorted(
        {p["drop"]["n"] for s in found["series"] for p in s["points"]}
        - {p["drop"]["n"] for p in whole["points"]}
    )
    deepest = whole["points"][-1]
    seeds = sum(s["policy"] == "random" and s["recovery"] == "all" for s in found["series"])
    fewer = {s["settings"]["search_images"] for s in found["series"]}
    fewer -= {whole["settings"]["search_images"]}
    lines += [
        "",
        "Points of held-out top-1 lost (95% interval of the paired difference); greedy, recovered: "
        f"n = {deepest['drop']['n']}, decided on {whole['settings']['search_images']} search "
        f"images; the others: n = {', '.join(map(str, others)) or 'as many'}, decided on "
        f"{', '.join(map(str, sorted(fewer)))}; random: from the least to the most of {seeds} "
        "seeds. Search: "
        f"{deepest['cost']['evaluations']} candidates, {deepest['cost']['images']} images and "
        f"{deepest['cost']['seconds'] / 60:.0f} minutes for all points of greedy; with their "
        f"held-out accuracy {whole['wall_seconds'] / 60:.0f} minutes, {whole['threads']} threads "
        f"of an {found['machine']['cpu']}.",
    ]
    return "\n".join(lines)


def other_models_table(found: dict[str, Any], others: dict[str, Any]) -> str:
    """Table of greedy's points for each reference model."""
    (measured,) = (s for s in found["series"] if (s["policy"], s["recovery"]) == ("greedy", "all"))
    series = {found["model"]: measured, **others["models"]}
    names = " | ".join(f"`{name}` | lost" for name in series)
    lines = [f"| greedy, recovered | {names} |", "|---" * (2 * len(series) + 1) + "|"]
    dense = (f"{s['dense']['held_out']['top1_percent']:.2f}% | " for s in series.values())
    lines.append(f"| dense | {' | '.join(dense)} |")
    sizes = [{p["asked_saving_percent"] for p in one["points"]} for one in series.values()]
    for saving in sorted(set.intersection(*sizes)):
        cells = [
            f"{point['held_out']['top1_percent']:.2f}% | {_drops([point['drop']])}"
            for one in series.values()
            for point in one["points"]
            if point["asked_saving_percent"] == saving
        ]
        lines.append(f"| {saving:g}% saved | {' | '.join(cells)} |")
    n = measured["points"][0]["drop"]["n"]
    lines += [
        "",
        f"Held-out top-1, and points of it lost (95% interval of the paired difference), n = {n}, "
        f"decided on {measured['settings']['search_images']} search images.",
    ]
    return "\n".join(lines)


def _seeds(found: dict[str, Any]) -> str:
    """Explanation of random's cells, where there is more than one seed."""
    seeds = {row["seed"] for row in found["finetuned"] if row["policy"] == "random"}
    return f"; random: from the least to the most of {len(seeds)} seeds" if seeds - {0} else ""


def _policies_table(series: list[dict[str, Any]], recovery: str, name: str) -> list[str]:
    chosen = [s for s in series if s["recovery"] == recovery]
    savings = sorted({p["asked_saving_percent"] for s in chosen for p in s["points"]})
    policies = [policy for policy in _POLICIES if any(s["policy"] == policy for s in chosen)]
    lines = [f"| {name} | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    for saving in savings:
        cells = [_points_at(chosen, policy, saving) for policy in policies]
        lines.append(f"| {saving:g}% saved | {' | '.join(cells)} |")
    return lines


def _points_at(series: list[dict[str, Any]], policy: str, saving: float) -> str:
    drops = [
        point["drop"]
        for one in series
        if one["policy"] == policy
        for point in one["points"]
        if point["asked_saving_percent"] == saving and point["met"]
    ]
    return _drops(drops)


def _drops(drops: list[dict[str, Any]]) -> str:
    """Points and their interval, or the range over several seeds."""
    if not drops:
        return "-"
    if len(drops) > 1:
        points = sorted(drop["points"] for drop in drops)
        return f"{points[0]:.1f} to {points[-1]:.1f}"
    low, high = drops[0]["interval95_points"]
    return f"{drops[0]['points']:.2f} [{low:.1f}, {high:.1f}]"


def recovery_table(found: dict[str, Any]) -> str:
    """Table of points lost with each recovery step."""
    rows = found["recovery"]
    plans = list(dict.fromkeys((r["plan_of"], r["asked_saving_percent"]) for r in rows))
    steps = list(dict.fromkeys(r["recovery"] for r in rows))
    heads = [f"{policy}'s plan at {saving:g}%" for policy, saving in plans]
    lines = [f"| recovery | {' | '.join(heads)} |", "|---" * (len(plans) + 1) + "|"]
    for step in steps:
        cells = []
        for plan in plans:
            (row,) = (
                r
                for r in rows
                if (r["plan_of"], r["asked_saving_percent"], r["recovery"]) == (*plan, step)
            )
            low, high = row["drop"]["interval95_points"]
            cells.append(f"{row['drop']['points']:.2f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {step} | {' | '.join(cells)} |")
    n, (constant,) = rows[0]["drop"]["n"], found["free"]
    lines += [
        "",
        f"Points of held-out top-1 lost, n = {n}. Constant channels of this "
        f"model: {constant['free_channels']} of {constant['channels']}, on {constant['images']} "
        "images.",
    ]
    return "\n".join(lines)


def head_table(found: dict[str, Any]) -> str:
    """Table of points gained by refitting the classifier."""
    rows = sorted(found["head"], key=lambda r: float(r["asked_saving_percent"]))
    lines = [
        "| greedy | recovered | and its classifier fitted anew | gained |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for key in ("drop_without", "drop", "gained"):
            low, high = row[key]["interval95_points"]
            cells.append(f"{row[key]['points']:.2f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {row['asked_saving_percent']:g}% saved | {' | '.join(cells)} |")
    seconds, (threads, *_) = median(r["seconds"] for r in rows), {r["threads"] for r in rows}
    lines += [
        "",
        f"Points of held-out top-1 lost, and gained, n = {rows[0]['drop']['n']} (95% intervals of "
        f"the paired differences). Recovery, that fit and the cut take {seconds:.0f} seconds "
        f"(median, threads: {threads}).",
    ]
    return "\n".join(lines)


def timesteps_table(found: dict[str, Any]) -> str:
    """Table of accuracy and latency at fewer timesteps."""
    rows = found["timesteps"]
    steps = sorted({row["T"] for row in rows})
    heads = [f"T = {t}" for t in steps]
    lines = [f"| weights saved | | {' | '.join(heads)} |", "|---" * (len(steps) + 2) + "|"]
    for saving in sorted({row["asked_saving_percent"] for row in rows}):
        for matched in (True, False):
            cells = [
                f"{r['held_out']['top1_percent']:.1f}%"
                for t in steps
                for r in rows
                if (r["asked_saving_percent"], r["T"], r["norms_matched"]) == (saving, t, matched)
            ]
            name = "norms re-estimated" if matched else "norms as trained"
            lines.append(f"| {saving:g}% | {name} | {' | '.join(cells)} |")
        medians = {
            r["T"]: r["latency"]["median_ms"]
            for r in found["latency"]
            if r["asked_saving_percent"] == saving
        }
        cells = [f"{medians[t]:.1f} ms" for t in steps]
        lines.append(f"| {saving:g}% | latency | {' | '.join(cells)} |")
    n, runs = rows[0]["held_out"]["n"], found["latency"][0]["runs"]
    lines += [
        "",
        f"Held-out top-1, n = {n}: within 3 points either side (95%). Latency: fp32, one image, "
        f"one thread, median of {runs} runs interleaved in one process, "
        f"{found['machine']['cpu']}.",
    ]
    return "\n".join(lines)


def finetuned_table(found: dict[str, Any]) -> str:
    """Table of fine-tuned points and the fair baseline."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in found["finetuned"]:
        rows.setdefault((row["policy"], row["asked_saving_percent"]), []).append(row["drop"])
    savings = sorted({saving for _, saving in rows} - {0.0})
    lines = [f"| fine-tuned | {' | '.join(_POLICIES)} |", "|---" * (len(_POLICIES) + 1) + "|"]
    for saving in savings:
        cells = [_drops(rows.get((policy, saving), [])) for policy in _POLICIES]
        lines.append(f"| {saving:g}% saved | {' | '.join(cells)} |")
    (dense,) = (row for row in found["finetuned"] if row["policy"] == "dense")
    recipe, low, high = dense["recipe"], *dense["held_out"]["interval95_percent"]
    seconds = [row["seconds"] for row in found["finetuned"]]
    lines += [
        "",
        "Recovered, then trained; points of held-out top-1 lost against the dense model as it was "
        f"(95% interval of the paired difference), n = {dense['held_out']['n']}"
        f"{_seeds(found)}. The dense model "
        f"trained as long: {_drops([dense['drop']])}, {dense['held_out']['top1_percent']:.2f}% "
        f"[{low:.1f}, {high:.1f}]; against that one every point above loses "
        f"{-dense['drop']['points']:.2f} more. Training: {dense['images']} samples of the bundled "
        f"images in all ({recipe['epochs']} epoch), learning rate {recipe['learning_rate']:g}, "
        f"distillation {recipe['distillation']:g}, seed {recipe['seed']}; "
        f"{median(seconds) / 60:.0f} minutes each (median): little training, as long as a shared "
        "machine allowed.",
    ]
    return "\n".join(lines)
