"""The few numbers that stand beside the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.report.content import ReportContent
from primesvt_deploy.report.numbers import energy, fixed, interval, number, signed, size
from primesvt_deploy.report.rows import total_energy
from primesvt_deploy.report.speed import disturbances, speed_in_words

__all__ = ["Tile", "tiles"]


@dataclass(frozen=True)
class Tile:
    """A number before and after.

    Args:
        name: what it is.
        shipped: of the shipped model.
        change: against the dense model.
        dense: of the dense model, with words.
        flag: what casts doubt on it; empty: nothing.
    """

    name: str
    shipped: str
    change: str
    dense: str
    flag: str = ""


def tiles(manifest: Mapping[str, Any], content: ReportContent) -> tuple[Tile, ...]:
    """Numbers of everything that was measured.

    Args:
        manifest: content of `manifest.json`.
        content: of the report.
    """
    return tuple(
        [
            *_size(manifest.get("size") or {}),
            *_accuracy(manifest.get("accuracy") or {}),
            *_time(manifest.get("latency") or {}),
            *_memory(content),
            *_energy(content),
        ]
    )


def _size(sizes: Mapping[str, Any]) -> Iterator[Tile]:
    dense, shipped = (number((sizes.get(m) or {}).get("file_bytes")) for m in ("dense", "shipped"))
    if dense and shipped is not None:
        saved = number((sizes.get("saved_percent") or {}).get("file"))
        change = _less(dense, shipped) if saved is None else signed(-saved, 1, "%")
        yield Tile("Model file", size(shipped), change, f"dense {size(dense)}")


def _accuracy(accuracy: Mapping[str, Any]) -> Iterator[Tile]:
    found = [number((accuracy.get(m) or {}).get("top1_percent")) for m in ("dense", "shipped")]
    dense, shipped = found
    if dense is None or shipped is None:
        return
    drop = accuracy.get("drop") or {}
    lost = number(drop.get("points"))
    ends = interval(drop.get("interval95_points"), 2, -1.0) or ""
    change = "" if lost is None else f"{signed(-lost, 2)} points {ends}"
    yield Tile("Top-1, held-out", fixed(shipped, 2, "%"), change, f"dense {fixed(dense, 2, '%')}")


def _time(latency: Mapping[str, Any]) -> Iterator[Tile]:
    found = [number((latency.get(m) or {}).get("median_ms")) for m in ("dense", "shipped")]
    dense, shipped = found
    if dense is not None and shipped is not None:
        was = f"dense {fixed(dense, 2)} ms"
        flag = ", ".join(disturbances(latency)[:1])
        speed = speed_in_words(latency)
        yield Tile("Run time, median", fixed(shipped, 2, " ms"), speed, was, flag)


def _memory(content: ReportContent) -> Iterator[Tile]:
    whole = [m for m in content.memory if m.dense is not None and m.shipped is not None]
    if whole:
        dense = max(stage.dense or 0 for stage in whole)
        shipped = max(stage.shipped or 0 for stage in whole)
        yield Tile("Memory, at most", size(shipped), _less(dense, shipped), f"dense {size(dense)}")


def _energy(content: ReportContent) -> Iterator[Tile]:
    total = total_energy(content.energy)
    if total["dense"] and total["shipped"]:
        change = _less(total["dense"], total["shipped"])
        was = f"dense {energy(total['dense'])}"
        yield Tile("Energy, estimated", energy(total["shipped"]), change, was)


def _less(dense: float, shipped: float) -> str:
    return signed(100.0 * (shipped / dense - 1.0), 1, "%")
