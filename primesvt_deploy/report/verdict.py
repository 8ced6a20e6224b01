"""The verdict of a build: whether its constraints are met, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from primesvt_deploy.measure.verdict import VerdictState, verdict_of
from primesvt_deploy.report.numbers import fixed, interval, number, points, size

__all__ = ["COUNTED", "Verdict", "judge"]

COUNTED = {
    "file": "the model file",
    "params": "weights and biases",
    "rss": "resident memory at its peak",
}
"""What a budget may count, in words."""

State = Literal["met", "unsure", "unmet", "unknown"]

_STATES: Mapping[VerdictState, tuple[State, str]] = {
    VerdictState.MET: ("met", "Constraints met"),
    VerdictState.NOT_SHOWN: ("unsure", "Met on search images, not shown on held-out images"),
    VerdictState.NOT_MET: ("unmet", "Constraints not met"),
}


@dataclass(frozen=True)
class Verdict:
    """The first thing said of a build: whether it keeps its constraints.

    Args:
        state: `met`; `unsure`: met where it was searched, but the interval of the held-out drop
            reaches beyond the constraint; `unmet`; or `unknown`.
        title: the verdict in a few words.
        sentences: what it rests on.
    """

    state: State
    title: str
    sentences: tuple[str, ...]


def judge(manifest: Mapping[str, Any]) -> Verdict:
    """The verdict of a manifest's constraints.

    A drop on the search images decides what is built; these images were looked at many times, so
    the held-out images have the last word, with their 95% interval.

    Args:
        manifest: content of `manifest.json`; what it lacks is not judged.
    """
    constraints = manifest.get("constraints") or {}
    met = constraints.get("met")
    if met is None:
        return Verdict("unknown", "Whether the constraints are met is not recorded", ())
    said = tuple(_sentences(manifest, constraints))
    state, title = _STATES[verdict_of(manifest).state]
    if state == "met" and number(constraints.get("max_drop_points")) is None:
        budget = "Budget met" if constraints.get("budget_bytes") else "No budget was set"
        title = f"{budget}; no accuracy was asked for"
    return Verdict(state, title, said)


def _ends(manifest: Mapping[str, Any]) -> tuple[float | None, float | None]:
    drop = (manifest.get("accuracy") or {}).get("drop") or {}
    low, high = drop.get("interval95_points") or (None, None)
    return number(low), number(high)


def _sentences(manifest: Mapping[str, Any], constraints: Mapping[str, Any]) -> Iterator[str]:
    yield _of_size(manifest, constraints)
    yield from _of_accuracy(manifest, constraints)
    stopped = constraints.get("stopped_by")
    if not constraints.get("met") and stopped:
        yield f"What stopped it: {str(stopped).rstrip('. ')}."


def _of_size(manifest: Mapping[str, Any], constraints: Mapping[str, Any]) -> str:
    shipped = (manifest.get("size") or {}).get("shipped") or {}
    used = number(constraints.get("used_bytes"))
    used = number(shipped.get("file_bytes")) if used is None else used
    budget = number(constraints.get("budget_bytes"))
    what = COUNTED.get(str(constraints.get("budget_on")), COUNTED["file"])
    what = what[0].upper() + what[1:]
    if used is None:
        return "The size was not recorded."
    if not budget:
        return f"{what}: {size(used)}; no budget was set."
    if constraints.get("budget_met") is False:
        beyond = fixed(100 * (used / budget - 1), 1, "%")
        return f"{what}: {size(used)}, {beyond} more than the budget of {size(budget)}."
    return f"{what}: {size(used)} of at most {size(budget)}."


def _of_accuracy(manifest: Mapping[str, Any], constraints: Mapping[str, Any]) -> Iterator[str]:
    accuracy = manifest.get("accuracy") or {}
    most = number(constraints.get("max_drop_points"))
    searched = number((accuracy.get("search") or {}).get("drop_points"))
    limit = "no limit was set" if most is None else f"at most {most:g} were allowed"
    if searched is not None:
        yield f"On search images, where pruning was decided, {_lost(searched)}; {limit}."
    else:
        yield f"No candidate was evaluated on search images. Of points to lose, {limit}."
    drop = accuracy.get("drop") or {}
    found, high = number(drop.get("points")), _ends(manifest)[1]
    if found is None or high is None:
        yield "The loss on held-out images was not measured."
        return
    ends = interval(drop.get("interval95_points"), 2)
    n = fixed(number(drop.get("n")) or 0)
    yield (
        f"On {n} held-out images, which decided nothing, {_lost(found)}, 95% interval of the loss "
        f"{ends}{_against(most, manifest)}."
    )


def _lost(drop: float) -> str:
    return f"{points(-drop)} of top-1 are gained" if drop < 0 else f"{points(drop)} are lost"


def _against(most: float | None, manifest: Mapping[str, Any]) -> str:
    """How the held-out interval lies to the constraint."""
    low, high = _ends(manifest)
    if most is None or low is None or high is None:
        return ""
    if high <= most:
        return f": the whole interval is within the {most:g} allowed"
    if low > most:
        return f": surely more than the {most:g} allowed"
    return f": the interval reaches beyond the {most:g} allowed, so a larger loss is not excluded"
