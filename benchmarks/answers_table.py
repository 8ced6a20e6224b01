"""Table of `results/answers.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["answers_table"]


def answers_table(found: dict[str, Any]) -> str:
    """Table of the time that a build takes which answers from a frontier."""
    lines = [
        "| asked of `build --frontier` | weights saved | plan chosen after | verification "
        "| held-out accuracy | in all |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["answers"]:
        stages = row["stages"]
        missed = "" if row["met"] else " (not met)"
        lines.append(
            f"| `{row['asked']}`{missed} | {row['saved_percent']:.1f}% "
            f"| {row['seconds_until_plan']:.1f} s | {stages['verification']:.1f} s "
            f"| {stages['held-out accuracy']:.1f} s | {row['seconds']:.0f} s |"
        )
    first = found["answers"][0]
    lines += [
        "",
        "No candidate is evaluated, but the chosen plan is recovered, cut, exported, verified "
        f"spike by spike and classified on {first['held_out_images']} held-out images, as in any "
        f"build. Model and data were loaded before. {found['model']}, {found['threads']} threads, "
        f"{found['machine']['cpu']}.",
    ]
    return "\n".join(lines)
