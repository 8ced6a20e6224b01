"""Tables of benchmark results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from primesvt_deploy.cli.tables.common import make_console
from primesvt_deploy.cli.tables.fitting import Column, print_fitting, print_side_by_side
from primesvt_deploy.edge.runtime.runtimes import NATIVE
from primesvt_deploy.measure.megabytes import millions

if TYPE_CHECKING:
    from primesvt_deploy.edge.bench.comparison import Comparison

__all__ = ["print_comparison", "print_result", "print_uncompared"]

_DASH = "\N{EN DASH}"
_LEVELS = "▁▂▃▄▅▆▇█"
_BARS = 12
_OPERATORS = 8
_STAGES = ("imported", "session", "first run", "steady")
_AFTER = ("  after import", "  after load", "  after the first run", "  after all runs")
"""The same in words."""


def print_result(content: Mapping[str, Any]) -> None:
    """Print a result: machine, latency, memory, and operators and energy if measured."""
    console = make_console()
    facts = content["machine"]
    where = f"{content['host']}: " if content.get("host") else ""
    board = f"{facts['board']}, " if facts["board"] else ""
    console.print(
        f"{where}{board}{facts['cpu']}, {facts['physical_cores']} cores, {facts['architecture']}, "
        f"{', '.join(_versions(content))}, Python {facts['python']}",
    )
    ratios = {entry["variant"]: entry for entry in content["comparisons"]}
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in content["variants"]:
        groups.setdefault((row["threads"], row["batch"]), []).append(row)
    for (threads, batch), configurations in groups.items():
        _print_latency(console, configurations, threads, batch)
        for row in configurations:
            _print_ratio(console, ratios.get(row["name"]))
    _print_loading(console, next(iter(groups.values())))
    _print_native(console, content["variants"])
    for row in content["variants"]:
        _print_operators(console, row)
        _print_energy(console, row)
    for note in content["notes"]:
        console.print(f"note: {note}")


def _versions(content: Mapping[str, Any]) -> list[str]:
    """Versions of what ran the models: of onnxruntime, and of the native runtime's compiler."""
    facts, native = content["machine"], [_is_native(row) for row in content["variants"]]
    found = [] if all(native) else [f"onnxruntime {facts['onnxruntime']}"]
    compiler = content.get("cross_compiler") or facts.get("c_compiler")
    return [*found, *([compiler] if any(native) and compiler else [])]


def _is_native(row: Mapping[str, Any]) -> bool:
    return row.get("runtime") == NATIVE


def _subject(row: Mapping[str, Any]) -> str:
    """A configuration's bundle and runtime, as tables show it."""
    way = "native" if _is_native(row) else f"onnx, {row['profile']}"
    return f"{row['bundle']}\n{way}"


def _print_native(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what the native runtime of each bundle takes as a C program, without Python."""
    for row in {row["bundle"]: row for row in rows if _is_native(row)}.values():
        found = row["native"]
        peak = found.get("program_peak_bytes")
        program = "" if peak is None else f"; as a C program {millions(peak)[0]} MB at its peak"
        console.print(
            f"{row['bundle']}, native: {found['kernels']} kernels{program}",
        )


def _print_latency(
    console: Console, configurations: Sequence[Mapping[str, Any]], threads: int, batch: int
) -> None:
    """Print the times of configurations that took turns; the histogram is left out first."""
    times = [row["latency_ms"] for row in configurations]

    def milliseconds(key: str, rank: int) -> Column:
        shown = [_DASH if each[key] is None else f"{each[key]:.2f}" for each in times]
        return Column(key, shown, rank)

    histograms = [_sparkline(row["histogram"]["counts"]) for row in configurations]
    speeds = [f"{row['samples_per_second']:.1f}" for row in configurations]
    print_fitting(
        console,
        f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}: ms a run",
        Column("bundle", [_subject(row) for row in configurations]),
        [
            milliseconds("min", 3),
            milliseconds("median", 0),
            milliseconds("p95", 2),
            milliseconds("p99", 4),
            Column("least to p99", histograms, 5),
            Column("samples/s", speeds, 1),
        ],
    )


def _print_ratio(console: Console, entry: Mapping[str, Any] | None) -> None:
    """Print a configuration's ratio to the first of its group, with which it took turns."""
    from primesvt_deploy.edge.bench.statistics import Ratio

    if entry is not None:
        low, high = entry["interval95"]
        ratio = Ratio(time=entry["time_ratio"], low=low, high=high)
        console.print(
            f"{entry['variant']}: {ratio} (95%) than {entry['against']}",
        )


def _print_loading(console: Console, configurations: Sequence[Mapping[str, Any]]) -> None:
    """Print what loading takes, and memory at each stage: a quantity a row."""
    names = [
        *("time, ms", "  import", "  load", "  first run"),
        *("peak memory, MB", *_AFTER, "anonymous memory, MB", *_AFTER),
        *("model, MB", "  its file", "  weights in it", "  memory of runs", "  copy of weights"),
    ]
    subjects = [Column(_subject(row), _loading(row)) for row in configurations]
    print_side_by_side(console, "Loading and memory", Column("", names), subjects)


def _loading(row: Mapping[str, Any]) -> list[str]:
    """A configuration's cells of the table of loading; headings of a part have none."""
    seconds, memory, arena = row["seconds"], row["memory"], row["arena"]
    runs, copy = (arena["extended_bytes"], arena["reserved_bytes"]) if arena else (None, None)
    if _is_native(row):
        runs = row["native"]["arena_bytes"]
    sizes = row["file_bytes"], row["initializer_bytes"], runs, copy
    return [
        *("", *(f"{1e3 * seconds[key]:.0f}" for key in ("import", "load", "first_run"))),
        *("", *(_whole(memory[stage]["VmHWM"]) for stage in _STAGES)),
        *("", *(_whole(memory[stage]["RssAnon"]) for stage in _STAGES)),
        *("", *map(_megabytes, sizes)),
    ]


def _print_operators(console: Console, row: Mapping[str, Any]) -> None:
    found = row["operators"]
    if not found:
        return
    kinds = found["by_type"][:_OPERATORS]
    print_fitting(
        console,
        row["name"],
        Column("operator", [kind["operator"] for kind in kinds]),
        [
            Column("nodes", [str(kind["nodes"]) for kind in kinds], 2),
            Column("ms a run", [f"{kind['ms']:.3f}" for kind in kinds]),
            Column("share", [f"{kind['share']:.1%}" for kind in kinds], 1),
        ],
    )


def _print_energy(console: Console, row: Mapping[str, Any]) -> None:
    energy = row["energy"]
    if energy:
        console.print(
            f"{row['name']}: {energy['millijoules_an_inference']:.1f} mJ a sample "
            f"({energy['millijoules_an_inference_above_idle']:.1f} above idle), "
            f"{energy['running']['mean_watts']:.2f} W, idle {energy['idle']['mean_watts']:.2f} W "
            f"({energy['covers']})",
        )


def print_comparison(reference: str, compared: Mapping[str, Sequence[Comparison]]) -> None:
    """Print each result against the reference."""
    console = make_console()
    for name, comparisons in compared.items():
        before = [f"{found.other['latency_ms']['median']:.2f}" for found in comparisons]
        now = [f"{found.one['latency_ms']['median']:.2f}" for found in comparisons]
        peaks = [
            _DASH if found.peak_ratio is None else f"{100 * (found.peak_ratio - 1):+.1f}%"
            for found in comparisons
        ]
        print_fitting(
            console,
            f"{name} against {reference}",
            Column("configuration", [_pair(found) for found in comparisons]),
            [
                Column("ms before", before, 2),
                Column("ms now", now, 1),
                Column("speed (95%)", [str(found.ratio) for found in comparisons]),
                Column("peak memory", peaks, 3),
            ],
        )


def print_uncompared(uncompared: Mapping[str, Sequence[str]]) -> None:
    """Name on stderr the configurations that have no counterpart in the other result.

    Args:
        uncompared: names of configurations by the result that alone has them.
    """
    for result, names in uncompared.items():
        for name in names:
            click.echo(f"not compared: {name}: only in {result}", err=True)


def _pair(found: Comparison) -> str:
    one, other = found.one["name"], found.other["name"]
    return str(one) if one == other else f"{one}\nagainst {other}"


def _sparkline(counts: Sequence[int]) -> str:
    width = -(-len(counts) // _BARS)
    merged = [sum(counts[i : i + width]) for i in range(0, len(counts), width)]
    most = max(merged) or 1
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[-(-top * count // most)] for count in merged)


def _megabytes(count: int | None) -> str:
    return _DASH if count is None else millions(count)[0]


def _whole(count: int | None) -> str:
    return _DASH if count is None else f"{count / 1e6:.0f}"
