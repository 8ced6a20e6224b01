"""Table of `results/estimates.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["estimates_table", "time_table"]

_SHORT_S = 10.0
"""Stages that are expected to take, and take, less are summed up."""


def estimates_table(found: dict[str, Any]) -> str:
    """What a dry run foretells and what then happens, for each build."""
    lines = ["| build | | foretold | range | happened |", "|---|---|---|---|---|"]
    for build in found["builds"].values():
        lines += _rows(build)
    machine = found["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"{machine['cpu']}, {machine['cores']} cores.",
        ]
    )


def _rows(build: dict[str, Any]) -> list[str]:
    seconds, name = build["seconds"], f"`{build['command']}`"
    rows = [_row(name, "seconds in all", seconds["expected"], f"{seconds['actual']:.0f}")]
    short = {"expected_s": 0.0, "actual_s": 0.0}
    for stage, row in build["stages"].items():
        if max(row.values()) < _SHORT_S:
            short = {key: short[key] + row[key] for key in short}
        else:
            rows.append(_stage(stage, row))
    rows.append(_stage("shorter stages", short))
    for what in ("candidates", "images"):
        rows.append(_row("", what, build[what]["expected"], f"{build[what]['actual']:,}"))
    peak = build["peak_bytes"]
    expected, actual = (f"{peak[key] / 1e9:.2f} GB" for key in ("expected", "actual"))
    return [*rows, f"| | peak memory | {expected} | | {actual} |"]


def _row(name: str, what: str, expected: dict[str, float], actual: str) -> str:
    low, likely, high = (f"{expected[key]:,.0f}" for key in ("low", "likely", "high"))
    return f"| {name} | {what} | {likely} | {low} to {high} | {actual} |"


def _stage(name: str, row: dict[str, float]) -> str:
    return f"| | {name}, s | {row['expected_s']:.0f} | | {row['actual_s']:.0f} |"


def time_table(found: dict[str, Any]) -> str:
    """What each stage of the first build took, with its command and the machine."""
    build, machine = next(iter(found["builds"].values())), found["machine"]
    lines = ["| stage | seconds |", "|---|---|"]
    lines += [f"| {name} | {row['actual_s']:.1f} |" for name, row in build["stages"].items()]
    return "\n".join(
        [
            *lines,
            f"| in all | {build['seconds']['actual']:.0f} |",
            "",
            f"`{build['command']}`, {machine['cpu']}, {machine['cores']} cores.",
        ]
    )
