"""Table of `results/first_minutes.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["first_minutes_table"]

_FIRST = {
    "says_that_it_fits_s": "`build --budget-mb 20` says that the model fits as it is",
    "bundle_s": "its bundle is there",
    "photo_classified_s": "one's own JPEG is classified with it",
}


def first_minutes_table(found: dict[str, Any]) -> str:
    """Seconds that a newcomer waits, before and now."""
    before, after = (found["first"][tree] for tree in ("before", "after"))
    lines = ["| seconds until | before | now |", "|---|---|---|"]
    lines += [
        f"| {text} | {_said(before[key])} | {_said(after[key])} |" for key, text in _FIRST.items()
    ]
    lines += [
        f"| one is told about {name} | {_said(each['before']['median_s'])} "
        f"| {_said(each['after']['median_s'])} |"
        for name, each in found["mistakes"].items()
    ]
    machine = found["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"{machine['cpu']}, {machine['cores']} cores. Mistakes: medians of {found['rounds']} "
            f"runs, in turns with the earlier tree ({found['revision']}); the build: once each.",
        ]
    )


def _said(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f}"
