"""README's table of `results/latency.json`, and the comparison of each at its best thread count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["best_by_threads", "latency_table"]

_COLUMNS = ("spikingjelly_eager", "naive", "dense", "pruned", "int8", "int4")
_TITLES = (
    *("SpikingJelly eager", "naive torch.onnx export"),
    *("our fp32", "our fp32, pruned", "our int8", "our int4"),
)


def latency_table(found: dict[str, Any]) -> str:
    """Table of the latency of one image."""
    lines = [
        "| threads | "
        + " | ".join(_TITLES)
        + " | fp32 vs eager | fp32 vs naive | int8 vs fp32 (standard operators) |",
        "|---|" + "---|" * (len(_COLUMNS) + 3),
    ]
    for row in found["by_threads"]:
        cells = [f"{row[c]['median_ms']:.1f} ms ({row[c]['p95_ms']:.1f})" for c in _COLUMNS]
        faster = row["times_faster"]
        lines.append(
            f"| {row['threads']} | "
            + " | ".join(cells)
            + f" | {faster['dense_than_spikingjelly_eager']:.2f}x faster "
            f"| {faster['dense_than_naive']:.2f}x faster "
            f"| {faster['int8_than_dense']:.2f}x faster "
            f"({faster['int8_standard_than_dense']:.2f}x) |"
        )
    best = best_by_threads(found["by_threads"], (*_COLUMNS, "int8_standard"))
    cells = [f"{best[c][0]:.1f} ms (at {best[c][1]})" for c in _COLUMNS]
    lines.append(
        "| best | "
        + " | ".join(cells)
        + f" | {_faster(best, 'spikingjelly_eager', 'dense')} faster "
        f"| {_faster(best, 'naive', 'dense')} faster "
        f"| {_faster(best, 'dense', 'int8')} faster "
        f"({_faster(best, 'dense', 'int8_standard')}) |"
    )
    size = {name: f"{value / 1e6:.2f} MB" for name, value in found["file_bytes"].items()}
    lines += [
        "",
        f"Median (p95) of {found['runs']} runs, batch {found['batch']}, interleaved in one "
        f"process, {found['machine']['cpu']}. Best: each at the thread count where its median is "
        f"least, and ratios of these medians{_slowed(found['by_threads'], best)}. Files: naive "
        f"{size['naive']}, dense {size['dense']}, pruned {size['pruned']}, int8 {size['int8']}, "
        f"int4 {size['int4']}.",
    ]
    return "\n".join(lines)


def best_by_threads(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """The least median of each column, ms, and the thread count that it was measured at.

    Args:
        rows: results at one thread count each.
        columns: names of what was timed; those that no row has are left out.
    """
    found = {
        name: [(row[name]["median_ms"], row["threads"]) for row in rows if name in row]
        for name in columns
    }
    return {name: min(medians) for name, medians in found.items() if medians}


def _faster(best: Mapping[str, tuple[float, int]], slow: str, fast: str) -> str:
    return f"{best[slow][0] / best[fast][0]:.2f}x"


def _slowed(rows: Sequence[Mapping[str, Any]], best: Mapping[str, tuple[float, int]]) -> str:
    """A clause on eager mode where more threads made it slower: ratios there rest on that."""
    name = "spikingjelly_eager"
    least, threads = best[name]
    slower = [row for row in rows if row["threads"] > threads and row[name]["median_ms"] > least]
    if not slower:
        return ""
    row = slower[-1]
    return (
        f"; SpikingJelly eager takes {row[name]['median_ms'] / least:.1f} times as long at "
        f"{row['threads']} threads as at {threads}, so its ratio there says more of that than of "
        "our artifact"
    )
