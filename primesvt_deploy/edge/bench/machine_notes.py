"""Notes on the machine that a measurement was made on, for its readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

__all__ = ["noise_notes", "same_machine", "standing_notes", "state_notes"]

_OTHERS = 0.05
_RESOLUTION_TICKS = 3
_LOAD = 0.5
_STEAL = 0.01
_SLOWED = 0.95
_HOT_C = 80
_SCATTER = 1.5
_ROUND_SCATTER = 0.1
_LONGEST = 80
"""Characters of a fact in a message."""
_COMPARED = ("cpu", "architecture", "board", "logical_cores", "onnxruntime")


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Differences that make measurements on two machines incomparable, as `cpu: A against B`.

    Args:
        a: `machine.fingerprint` of one machine.
        b: that of the other. Kernel, Python and numpy may differ.
    """
    found = [
        f"{key}: {_said(a.get(key))} against {_said(b.get(key))}"
        for key in _COMPARED
        if a.get(key) != b.get(key)
    ]
    mine, theirs = set(a.get("features") or ()), set(b.get("features") or ())
    if mine != theirs:
        only = [", ".join(sorted(x)) or "none more" for x in (mine - theirs, theirs - mine)]
        found.append(f"features: {_said(only[0])} against {_said(only[1])}")
    return found


def state_notes(
    before: Mapping[str, Any], after: Mapping[str, Any], *, own_seconds: float, seconds: float
) -> list[str]:
    """Notes on what disturbed a measurement or may have, one line each.

    Args:
        before: `machine.state` before it.
        after: the same after it.
        own_seconds: processor time of all processes of the measurement itself.
        seconds: duration of the measurement.
    """
    return [
        *_busy_notes(before, after, own_seconds, seconds),
        *standing_notes(after, before=before),
        *_speed_notes(before, after),
    ]


def standing_notes(
    state: Mapping[str, Any], *, before: Mapping[str, Any] | None = None
) -> list[str]:
    """Notes on what slows a machine in a given state: governor, throttling, swap.

    Args:
        state: a `machine.state`.
        before: an earlier state, to distinguish what is new since then.
    """
    notes = []
    governors = state.get("governor") or ()
    if any(governor != "performance" for governor in governors):
        notes.append(
            f"frequency governor {', '.join(governors)}: the clock follows the load; "
            "`performance` gives steadier figures"
        )
    notes += _throttle_notes(state.get("throttled"), (before or {}).get("throttled"))
    used = state.get("swap_used_bytes") or 0
    if used:
        grown = used - ((before or {}).get("swap_used_bytes") or 0)
        during = f", {grown / 1e6:.1f} MB more than before" if before and grown > 0 else ""
        notes.append(f"swap in use: {used / 1e6:.1f} MB{during}: memory was or is short")
    return notes


def noise_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Notes on scattered and unstable times, one line each.

    Args:
        rows: configurations of a result: their `name`, `latency_ms`, `rounds_ms` and `warmup`.
    """
    notes = []
    for row in rows:
        latency, blocks = row["latency_ms"], sorted(map(median, row["rounds_ms"]))
        spread = (blocks[-2] - blocks[1]) / latency["median"]  # the outermost round each side aside
        if latency["p95"] > _SCATTER * latency["median"] or spread > _ROUND_SCATTER:
            notes.append(
                f"noisy: {row['name']}: p95 is {latency['p95'] / latency['median']:.2f} times the "
                f"median, medians of rounds spread over {spread:.0%}"
            )
        elif not row["warmup"]["stable"]:
            notes.append(f"not stable when its timing began: {row['name']}")
    return notes


def _busy_notes(
    before: Mapping[str, Any], after: Mapping[str, Any], own_seconds: float, seconds: float
) -> list[str]:
    notes = []
    start, end = before.get("cpu_ticks"), after.get("cpu_ticks")
    if start and end and seconds > 0:
        gone = {key: end[key] - start[key] for key in ("busy", "steal", "total")}
        per_second = end["per_second"]
        others = gone["busy"] / per_second - own_seconds
        if others > max(_OTHERS * seconds, _RESOLUTION_TICKS / per_second):
            notes.append(
                f"machine busy: other programs took {others / seconds:.0%} of one core "
                "during the measurement"
            )
        if gone["steal"] > max(_STEAL * gone["total"], _RESOLUTION_TICKS):
            share = gone["steal"] / gone["total"]
            notes.append(f"virtual machine: its host took {share:.1%} of the processor time")
    load = before.get("load")
    if load and load[0] > _LOAD:
        notes.append(
            f"load {load[0]:.2f} in the minute before the start: "
            "other programs, or a measurement just before"
        )
    return notes


def _throttle_notes(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> list[str]:
    if not now:
        return []
    start = before or {"now": (), "since_boot": now["since_boot"]}
    current = list(now["now"])
    lately = [
        name
        for name in dict.fromkeys((*start["now"], *now["since_boot"]))
        if name not in current and (name in start["now"] or name not in start["since_boot"])
    ]
    earlier = [name for name in now["since_boot"] if name not in (*current, *lately)]
    groups = (
        (current, "now"),
        (lately, "during the measurement"),
        (earlier, "since boot, not now"),
    )
    return [f"{', '.join(names)}: {when} ({now['raw']})" for names, when in groups if names]


def _speed_notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    notes = []
    clock = after.get("frequency_mhz")
    if clock and clock["now"] < _SLOWED * clock["max"]:
        notes.append(f"clock at {clock['now']:.0f} of {clock['max']:.0f} MHz after the measurement")
    hottest = max(_degrees(before), _degrees(after))
    if hottest >= _HOT_C:
        notes.append(f"hot: {hottest:.0f} C ({_HOT_C} C and more is where boards slow down)")
    return notes


def _degrees(state: Mapping[str, Any]) -> float:
    found = state.get("temperature_c")
    return float("-inf") if found is None else float(found)


def _said(value: Any) -> str:
    found = "unknown" if value is None else str(value)
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}..."
