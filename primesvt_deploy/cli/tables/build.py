"""Tables of a build's result and of a bundle."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import (
    DASH,
    make_console,
    print_notes,
    print_unpruned,
    top1,
)
from primesvt_deploy.edge.bench.statistics import Ratio
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.measure.verdict import VerdictState, verdict_of
from primesvt_deploy.summary.words import points_changed, points_lost

__all__ = ["print_build", "print_bundle"]

_COLOURS = {
    VerdictState.MET: "green",
    VerdictState.NOT_SHOWN: "yellow",
    VerdictState.NOT_MET: "red",
}
_LEAST_SHARE = 1e-4
"""Percent below which a share is not told."""


def print_build(manifest: Mapping[str, Any], output: Path) -> None:
    """Print a build's result: before and after, the verdict, what to do next."""
    console = make_console()
    if not manifest["size"]["saved_percent"]["parameters"]:
        console.print(f"Nothing was pruned: {manifest['constraints']['stopped_by']}.")
    console.print(_before_and_after(manifest))
    _print_verdict(console, manifest)
    _print_facts(console, manifest)
    script = shlex.quote(str(output / "run.py"))
    console.print(f"bundle: {output}   try: python {script} IMAGE")


def print_bundle(manifest: Mapping[str, Any]) -> None:
    """Print a bundle: model, constraints, before and after, files."""
    console = make_console()
    model = manifest["model"]
    console.print(
        f"{model['name']}: {model['family']}, T={model['arguments']['timesteps']}, "
        f"{len(model['labels'])} classes, input {manifest['input']['shape']}",
    )
    _print_verdict(console, manifest)
    console.print(f"pruning ended: {manifest['constraints']['stopped_by']}")
    console.print(_before_and_after(manifest))
    _print_facts(console, manifest)
    files = Table("file", "bytes", "sha256")
    for name, entry in manifest["files"].items():
        files.add_row(name, f"{entry['bytes']:,}", entry["sha256"][:16])
    console.print(files)


def _print_verdict(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print whether the constraints are kept, in its colour, below what puts it in doubt."""
    for warning in filter(_is_warning, manifest.get("notes", ())):
        console.print(warning, style="bold red", soft_wrap=True)
    verdict = verdict_of(manifest)
    console.print(f"{verdict.text}.", style=_COLOURS[verdict.state])


def _is_warning(note: str) -> bool:
    return note.startswith("WARNING: ")


def _before_and_after(manifest: Mapping[str, Any]) -> Table:
    size, accuracy, latency = manifest["size"], manifest["accuracy"], manifest["latency"]
    table = Table("", "before", "after", "change")
    for name, key, unit, share in (
        ("model file", "file_bytes", "MB", "file"),
        ("weights alone", "weight_bytes", "MB", "weights"),
        ("parameters", "parameters", "M", "parameters"),
        ("MACs an image", "macs", "M", "macs"),
    ):
        before, after = millions(size["dense"][key], size["shipped"][key])
        saved = size["saved_percent"][share]
        table.add_row(name, f"{before} {unit}", f"{after} {unit}", f"{0 - saved:+.1f}%")
    is_dense = "ratio_median" not in latency
    drop = accuracy["drop"]
    table.add_row(
        f"held-out top-1 (n={accuracy['dense']['n']})",
        top1(accuracy["dense"]),
        top1(accuracy["shipped"]),
        DASH if is_dense else f"{points_changed(drop['points'], drop['interval95_points'])} points",
    )
    threads = latency["threads"]
    shipped = "the same model" if is_dense else _times(latency["shipped"])
    speed = DASH if is_dense else _speed(latency, "")
    table.add_row(
        f"latency, batch {latency['batch']}, {_threads(threads)}",
        _times(latency["dense"]),
        shipped,
        speed,
    )
    if "native" in latency and "native_ratio_median" in latency:
        table.add_row(
            # Bundles of earlier versions were timed on one.
            f"native runtime, {_threads(latency.get('native_threads', 1))}",
            DASH,
            _times(latency["native"]),
            f"{_speed(latency, 'native_')} than ONNX Runtime",
        )
    return table


def _times(times: Mapping[str, float]) -> str:
    return f"{times['median_ms']:.2f} ms (p95 {times['p95_ms']:.2f})"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _speed(latency: Mapping[str, Any], prefix: str) -> str:
    """How much faster a model is, with its interval; without one it was measured before these."""
    interval = latency.get(f"{prefix}ratio_interval95")
    times = latency[f"{prefix}ratio_median"]
    if interval is None:
        words = f"{times:.2f}x faster" if times >= 1.0 else f"{1 / times:.2f}x slower"
        return f"{words}, no interval"
    low, high = interval
    return str(Ratio(time=1 / times, low=1 / high, high=1 / low))


def _print_facts(console: Console, manifest: Mapping[str, Any]) -> None:
    check = manifest["verification"]
    _print_precision(console, manifest.get("precision"))
    print_notes(console, (n for n in manifest.get("notes", ()) if not _is_warning(n)))
    print_notes(console, (f"latency: {note}" for note in manifest["latency"].get("notes", ())))
    print_unpruned(console, manifest.get("left_unpruned", {}))
    native = manifest.get("native")
    if native is not None:
        (size,) = millions(native["file_bytes"])
        console.print(
            f"native runtime: {native['file']} of {size} MB, an arena of "
            f"{native['arena_bytes'] / 1e3:.0f} KB; "
            f"{native['verification']['flips_behind_real']} spikes flipped behind float layers",
        )
    _print_anytime(console, manifest.get("anytime"))
    console.print(
        f"verified on {check['n']} images: top-1 equal on "
        f"{check['n'] - check['top1_disagreements']}, {_flips(check)}.",
    )
    console.print(f"latency was measured on {manifest['latency']['cpu']}.")


def _flips(check: Mapping[str, Any]) -> str:
    """The share of spikes that differ from those in torch, and what that means."""
    if not check["flipped_spikes"]:
        return "no spike flipped"
    share = 100.0 * check["flipped_spikes"] / max(1, check["spikes_compared"])
    shown = f"{share:.2g}%" if share >= _LEAST_SHARE else f"less than {_LEAST_SHARE:.4f}%"
    most = check.get("max_abs_logit_difference_without_flips")
    # Where every image has a flip, nothing is known of those without.
    within = ""
    if most is not None and check.get("images_with_flips", 0) < check["n"]:
        within = f"; logits differ by at most {most:.1g} where none flips"
    return f"{shown} of the spikes flipped (rounding near the threshold{within})"


def _print_anytime(console: Console, anytime: Mapping[str, Any] | None) -> None:
    """Print how early runs of the model stop, and what that costs."""
    if anytime is None or anytime["held_out"] is None:
        return
    shares = ", ".join(
        f"{stage['search_share']:.1%} at T={stage['timesteps']}" for stage in anytime["stages"]
    )
    found = anytime["held_out"]
    low, high = found["drop"]["interval95_points"]
    console.print(
        f"stops early: {shares} of the search images, where by it "
        f"{points_lost(anytime['search']['drop_points'])}; held-out: {top1(found['accuracy'])} "
        f"(n={found['accuracy']['n']}), {points_lost(found['drop']['points'])} by it "
        f"(95% interval of the loss [{low:.2f}, {high:.2f}]), "
        f"{found['mean_timesteps']:.2f} timesteps on average",
    )


def _print_precision(console: Console, precision: Mapping[str, Any] | None) -> None:
    """Print the precision, the float layers, and the candidates that auto chose from."""
    if precision is None:
        return
    if len(precision["candidates"]) > 1:
        table = Table("precision", "pruned", "file", "search change, points", "constraints")
        sizes = millions(*(entry["file_bytes"] for entry in precision["candidates"]))
        for entry, size in zip(precision["candidates"], sizes, strict=True):
            drop = entry["drop"]
            table.add_row(
                entry["precision"] + (" (chosen)" if _is_chosen(entry, precision) else ""),
                "yes" if entry["pruned"] else "no",
                f"{size} MB",
                points_changed(drop["points"]) if drop else DASH,
                "met" if entry["met"] else "not met",
            )
        console.print(table)
    if precision["name"] == "fp32":
        return
    float_layers = precision["real_layers"]
    console.print(
        f"{precision['name']}: {precision['integer_layers']} layers run on integers, "
        f"{len(float_layers)} on float32",
    )
    by_reason: dict[str, list[str]] = {}
    for layer, reason in float_layers.items():
        by_reason.setdefault(reason, []).append(layer)
    for reason, layers in by_reason.items():
        shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if layers[3:] else "")
        console.print(f"note: on float32: {shown}: {reason}")


def _is_chosen(entry: Mapping[str, Any], precision: Mapping[str, Any]) -> bool:
    return bool(entry["precision"] == precision["name"])
