"""Tables of benchmark results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import make_console
from primesvt_deploy.edge.runtime.runtimes import NATIVE
from primesvt_deploy.measure.megabytes import millions

if TYPE_CHECKING:
    from primesvt_deploy.edge.bench.comparison import Comparison

__all__ = ["print_comparison", "print_result", "print_uncompared"]

_DASH = "\N{EN DASH}"
_LEVELS = "▁▂▃▄▅▆▇█"
_BARS = 12
_OPERATORS = 8


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
        console.print(_latency_table(configurations, threads, batch))
        for row in configurations:
            _print_ratio(console, ratios.get(row["name"]))
    first = next(iter(groups.values()))
    console.print(_loading_table(first))
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


def _latency_table(configurations: Sequence[Mapping[str, Any]], threads: int, batch: int) -> Table:
    table = Table(
        "bundle",
        *("min", "median", "p95", "p99", "least to p99", "samples/s"),
        title=f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}: ms a run",
    )
    for row in configurations:
        times = row["latency_ms"]
        p99 = _DASH if times["p99"] is None else f"{times['p99']:.2f}"
        table.add_row(
            _subject(row),
            *(f"{times[key]:.2f}" for key in ("min", "median", "p95")),
            p99,
            _sparkline(row["histogram"]["counts"]),
            f"{row['samples_per_second']:.1f}",
        )
    return table


def _print_ratio(console: Console, entry: Mapping[str, Any] | None) -> None:
    """Print a configuration's ratio to the first of its group, with which it took turns."""
    from primesvt_deploy.edge.bench.statistics import Ratio

    if entry is not None:
        low, high = entry["interval95"]
        ratio = Ratio(time=entry["time_ratio"], low=low, high=high)
        console.print(
            f"{entry['variant']}: {ratio} (95%) than {entry['against']}",
        )


def _loading_table(configurations: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "bundle",
        *("import\nload\nfirst run, ms", "peak MB\nimport, load\nfirst run, steady"),
        *("RssAnon MB\nthe same", "file, weights\narena: runs\n+ weights, MB"),
        title="Loading and memory",
    )
    for row in configurations:
        seconds, memory = row["seconds"], row["memory"]
        table.add_row(
            _subject(row),
            "\n".join(f"{1e3 * seconds[key]:.0f}" for key in ("import", "load", "first_run")),
            _stages(memory, "VmHWM"),
            _stages(memory, "RssAnon"),
            f"{_megabytes(row['file_bytes'])}\n{_megabytes(row['initializer_bytes'])}\n"
            + _arena(row),
        )
    return table


def _arena(row: Mapping[str, Any]) -> str:
    """Memory of runs, and of the weights where a runtime keeps a copy of them."""
    if _is_native(row):
        return _megabytes(row["native"]["arena_bytes"])
    arena = row["arena"]
    if not arena:
        return _DASH
    return f"{_megabytes(arena['extended_bytes'])} + {_megabytes(arena['reserved_bytes'])}"


def _stages(memory: Mapping[str, Mapping[str, int | None]], figure: str) -> str:
    cells = [_whole(memory[s][figure]) for s in ("imported", "session", "first run", "steady")]
    return f"{cells[0]}, {cells[1]}\n{cells[2]}, {cells[3]}"


def _print_operators(console: Console, row: Mapping[str, Any]) -> None:
    found = row["operators"]
    if not found:
        return
    table = Table("operator", "nodes", "ms a run", "share", title=row["name"])
    for kind in found["by_type"][:_OPERATORS]:
        times = f"{kind['ms']:.3f}", f"{kind['share']:.1%}"
        table.add_row(kind["operator"], str(kind["nodes"]), *times)
    console.print(table)


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
        table = Table(
            *("configuration", "ms before", "ms now", "speed (95%)", "peak memory"),
            title=f"{name} against {reference}",
        )
        for found in comparisons:
            peak = _DASH if found.peak_ratio is None else f"{100 * (found.peak_ratio - 1):+.1f}%"
            table.add_row(
                _pair(found),
                f"{found.other['latency_ms']['median']:.2f}",
                f"{found.one['latency_ms']['median']:.2f}",
                str(found.ratio),
                peak,
            )
        console.print(table)


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
