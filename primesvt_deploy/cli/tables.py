"""Results as tables on a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from primesvt_deploy.analysis.energy import EnergyEstimate
    from primesvt_deploy.model.svit import SViT
    from primesvt_deploy.pipeline.analyze import Analysis
    from primesvt_deploy.settings import SearchSettings

__all__ = ["print_analysis", "print_build", "print_bundle", "print_frontier"]

_DASH = "\N{EN DASH}"


def print_build(manifest: Mapping[str, Any], output: Path) -> None:
    """What a build ends with: before and after, the verdict, what to do next."""
    console = Console()
    constraints = manifest["constraints"]
    if not manifest["size"]["saved_percent"]["parameters"]:
        console.print(f"Nothing was pruned: {constraints['stopped_by']}.", highlight=False)
    console.print(_before_and_after(manifest))
    _print_facts(console, manifest)
    script = shlex.quote(str(output / "run.py"))
    console.print(f"bundle: {output}   try: python {script} IMAGE", highlight=False)


def print_bundle(manifest: Mapping[str, Any]) -> None:
    """What `inspect` shows."""
    console = Console()
    model = manifest["model"]
    console.print(
        f"{model['name']}: {model['family']}, T={model['arguments']['timesteps']}, "
        f"{len(model['labels'])} classes, input {manifest['input']['shape']}",
        highlight=False,
    )
    met = "met" if manifest["constraints"]["met"] else "NOT met"
    console.print(f"constraints {met}: {manifest['constraints']['stopped_by']}", highlight=False)
    console.print(_before_and_after(manifest))
    _print_facts(console, manifest)
    files = Table("file", "bytes", "sha256")
    for name, entry in manifest["files"].items():
        files.add_row(name, f"{entry['bytes']:,}", entry["sha256"][:16])
    console.print(files)


def print_frontier(content: Mapping[str, Any], output: Path) -> None:
    """Points from the largest to the smallest, and what they cost."""
    console = Console()
    dense = content["dense"]
    table = Table(
        "saved",
        "weights",
        "search drop",
        "held-out top-1",
        "held-out drop",
        "evaluations",
        title=f"{content['model']}, {content['policy']}: dense weights "
        f"{_millions(dense['weight_bytes'])} MB, {_top1(dense['held_out'])}",
    )
    for point in content["points"]:
        low, high = point["drop"]["interval95_points"]
        table.add_row(
            _saved(point),
            f"{_millions(point['weight_bytes'])} MB",
            f"{point['search']['points']:.2f}" if point["search"] else _DASH,
            _top1(point["held_out"]),
            f"{point['drop']['points']:.2f} [{low:.1f}, {high:.1f}]",
            f"{point['cost']['evaluations']} ({point['cost']['seconds']:.0f} s)",
        )
    console.print(table)
    _print_timesteps(console, [{**dense, "saved_percent": 0.0, "met": True}, *content["points"]])
    console.print(
        f"{output}: frontier.json, frontier.png, frontier.svg, ledger.jsonl   "
        "try, with the same model and data: primesvt-deploy build --frontier "
        f"{shlex.quote(str(output))} --max-drop 1",
        highlight=False,
    )


def _saved(point: Mapping[str, Any]) -> str:
    return f"{point['saved_percent']:.1f}%" + ("" if point["met"] else "\n(not met)")


def _print_timesteps(console: Console, points: Sequence[Mapping[str, Any]]) -> None:
    """A table of its own, narrow enough for a terminal of 80 columns."""
    steps = sorted({row["T"] for point in points for row in point.get("timesteps", ())})
    if not steps:
        return
    table = Table("saved", *(f"T = {t}" for t in steps), title="Held-out top-1 and latency")
    for point in points:
        by_steps = {row["T"]: row for row in point.get("timesteps", ())}
        cells = [_at_steps(by_steps[t]) if t in by_steps else _DASH for t in steps]
        table.add_row(_saved(point), *cells)
    console.print(table)


def _at_steps(row: Mapping[str, Any]) -> str:
    return f"{row['held_out']['top1_percent']:.2f}%\n{row['latency']['median_ms']:.1f} ms"


def print_analysis(model: SViT, found: Analysis, search: SearchSettings) -> None:
    """Sizes and robustness, then firing rates and what they let an inference cost."""
    console = Console()
    console.print(
        f"{model.name}: {found.cost.parameters:,} parameters, {found.cost.macs / 1e6:.0f} M MACs "
        f"an image over T={model.timesteps}, search top-1 {found.dense}",
        highlight=False,
    )
    rates = sorted({point.rate for curve in found.curves for point in curve.points})
    robustness = Table(
        "layer",
        "size",
        "width",
        *(f"{rate:.0%}" for rate in rates),
        "up to",
        title=f"Points of top-1 lost when a layer is pruned alone (limit {_limit(search)})",
    )
    for curve in found.curves:
        by_rate = {point.rate: point for point in curve.points}
        cells = [
            _drop_cell(by_rate[r].drop.points, r in curve.within) if r in by_rate else _DASH
            for r in rates
        ]
        deepest = f"{max(curve.within):.0%}" if curve.within else "not a target"
        size = f"{curve.group.size:,}"
        robustness.add_row(curve.group.name, size, str(curve.group.width), *cells, deepest)
    console.print(robustness)
    _print_left(console, found.left)
    firing = Table("neuron layer", "firing rate", "silent channels", title="Firing rates")
    for layer in found.firing:
        firing.add_row(layer.layer, f"{layer.rate:.2%}", f"{layer.silent} of {layer.channels}")
    console.print(firing)
    _print_energy(console, found.energy)


def _print_energy(console: Console, energy: EnergyEstimate) -> None:
    from primesvt_deploy.analysis.energy import ACCUMULATE_PICOJOULES, MAC_PICOJOULES

    table = Table(
        "layer", "M MACs if dense", "spikes", "uJ", title="Operations and energy of an image"
    )
    for layer in energy.layers:
        table.add_row(
            layer.layer,
            _three_digits(layer.macs / 1e6),
            "real" if layer.rate is None else f"{layer.rate:.3f}",
            _three_digits(layer.picojoules / 1e6),
        )
    console.print(table)
    microjoules, dense = map(_three_digits, (energy.microjoules, energy.all_macs_microjoules))
    accumulates, macs = (_three_digits(count / 1e6) for count in (energy.accumulates, energy.macs))
    console.print(
        f"Energy, an estimate ({MAC_PICOJOULES} pJ a MAC, {ACCUMULATE_PICOJOULES} pJ an "
        f"accumulate, 45 nm; Horowitz 2014): {microjoules} uJ an image: {accumulates} M "
        f"accumulates, {macs} M MACs; were every operation a MAC: {dense} uJ",
        highlight=False,
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _limit(search: SearchSettings) -> str:
    return "off" if search.max_drop is None else f"{search.max_drop:g}"


def _print_precision(console: Console, precision: Mapping[str, Any] | None) -> None:
    """What the weights are, layers that stay real, and what auto chose from."""
    if precision is None:
        return
    if len(precision["candidates"]) > 1:
        table = Table("precision", "pruned", "file", "search drop, points", "constraints")
        for entry in precision["candidates"]:
            drop = entry["drop"]
            table.add_row(
                entry["precision"] + (" (chosen)" if _is_chosen(entry, precision) else ""),
                "yes" if entry["pruned"] else "no",
                f"{_millions(entry['file_bytes'])} MB",
                f"{drop['points']:.2f}" if drop else _DASH,
                "met" if entry["met"] else "not met",
            )
        console.print(table)
    if precision["name"] == "fp32":
        return
    real = precision["real_layers"]
    console.print(
        f"{precision['name']}: {precision['integer_layers']} layers run on integers, "
        f"{len(real)} on float32",
        highlight=False,
    )
    by_reason: dict[str, list[str]] = {}
    for layer, reason in real.items():
        by_reason.setdefault(reason, []).append(layer)
    for reason, layers in by_reason.items():
        shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if layers[3:] else "")
        console.print(f"note: on float32: {shown}: {reason}", highlight=False, markup=False)


def _is_chosen(entry: Mapping[str, Any], precision: Mapping[str, Any]) -> bool:
    return bool(entry["precision"] == precision["name"])


def _print_left(console: Console, left: Mapping[str, str]) -> None:
    for layer, reason in left.items():
        console.print(f"left unpruned: {layer}: {reason}", highlight=False, markup=False)


def _drop_cell(points: float, within: bool) -> str:
    return f"[green]{points:.1f}[/green]" if within else f"[red]{points:.1f}[/red]"


def _before_and_after(manifest: Mapping[str, Any]) -> Table:
    size, accuracy, latency = manifest["size"], manifest["accuracy"], manifest["latency"]
    table = Table("", "before", "after", "change")
    for name, key, unit, share in (
        ("model file", "file_bytes", "MB", "file"),
        ("weights alone", "weight_bytes", "MB", "weights"),
        ("parameters", "parameters", "M", "parameters"),
        ("MACs an image", "macs", "M", "macs"),
    ):
        table.add_row(
            name,
            f"{_millions(size['dense'][key])} {unit}",
            f"{_millions(size['shipped'][key])} {unit}",
            f"{0 - size['saved_percent'][share]:+.1f}%",
        )
    low, high = accuracy["drop"]["interval95_points"]
    table.add_row(
        f"held-out top-1 (n={accuracy['dense']['n']})",
        _top1(accuracy["dense"]),
        _top1(accuracy["shipped"]),
        f"{0 - accuracy['drop']['points']:+.2f} points [{0 - high:+.1f}, {0 - low:+.1f}]",
    )
    table.add_row(
        f"latency, batch {latency['batch']}, {latency['threads']} threads",
        f"{latency['dense']['median_ms']:.2f} ms (p95 {latency['dense']['p95_ms']:.2f})",
        f"{latency['shipped']['median_ms']:.2f} ms (p95 {latency['shipped']['p95_ms']:.2f})",
        _speed(latency["ratio_median"]),
    )
    return table


def _millions(count: int) -> str:
    """To two decimals, to two digits where that would leave fewer."""
    return f"{count / 1e6:.2f}" if count >= 1e5 else f"{count / 1e6:.2g}"


def _speed(ratio: float) -> str:
    return f"{ratio:.2f}x faster" if ratio >= 1.0 else f"{1 / ratio:.2f}x slower"


def _top1(accuracy: Mapping[str, Any]) -> str:
    low, high = accuracy["interval95_percent"]
    return f"{accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}]"


def _print_facts(console: Console, manifest: Mapping[str, Any]) -> None:
    check, drop = manifest["verification"], manifest["accuracy"]["drop"]["points"]
    allowed = manifest["constraints"]["max_drop_points"]
    if allowed is not None and drop > allowed:
        console.print(
            f"note: {drop:.2f} points are lost on the held-out split, {allowed:g} were allowed; "
            "the constraint is judged on the search split, so ask for a little less to be safe",
            highlight=False,
        )
    _print_precision(console, manifest.get("precision"))
    for note in manifest.get("notes", ()):
        console.print(f"note: {note}", highlight=False, markup=False)
    _print_left(console, manifest.get("left_unpruned", {}))
    console.print(
        f"verified on {check['n']} images: top-1 equal on "
        f"{check['n'] - check['top1_disagreements']}, {check['flipped_spikes']} of "
        f"{check['spikes_compared']} spikes flipped; latency on {manifest['latency']['cpu']}",
        highlight=False,
    )
