"""Why these layers and this plan, in words: what a policy measured, and where its search ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from primesvt_deploy.report.charts.search import frontier_of, shipped_point
from primesvt_deploy.report.content import Sensitivity, TriedPlan
from primesvt_deploy.report.numbers import fixed, number, share

__all__ = ["better_than_shipped", "why_these_layers"]

_RULES = {
    "greedy": "Greedy takes small steps, always the one that changes the model's answers least "
    "for each byte it saves.",
    "prioritized": "Prioritized goes from the largest layer to the smallest, and prunes each as "
    "far as the constraint allows, until the budget is met.",
    "uniform": "Uniform removes the same share of every layer's channels; heads and rounding make "
    "the small differences.",
    "random": "Random removes the same share of every layer's channels, chosen at random.",
    "global-l2": "Global-l2 ranks the channels of all layers together by the L2 norm of their "
    "weights, and removes the smallest.",
}
_BY_SIZE = (
    "Prioritized goes from the largest layer to the smallest, until the budget is met; as no "
    "accuracy was asked for, sizes alone decided."
)
_NEAR = 0.1
"""Rates that differ by no more than this are compared."""

Row = Mapping[str, Any]


def why_these_layers(
    policy: str, groups: Sequence[Row], plan: Mapping[str, Any], measured: Sequence[Sensitivity]
) -> tuple[str, ...]:
    """Sentences on how the policy chose: its rule, and two layers that show it.

    Args:
        policy: its name.
        groups: rows of `rows.groups`, in the policy's order.
        plan: content of `plan.json`.
        measured: a policy's own measure of each layer; empty: it has none.

    Returns:
        The rule alone where nothing was measured; nothing where no channel was removed.
    """
    known = [row for row in groups if row["removed"] is not None]
    if policy not in _RULES or not any(row["removed"] for row in known):
        return ()
    if policy == "prioritized" and (plan.get("policy") or {}).get("search_drop_points") is None:
        return (_BY_SIZE,)
    found = [_RULES[policy]]
    if policy == "greedy":
        found += _by_sensitivity(known, {entry.group: entry for entry in measured})
    elif policy == "prioritized":
        found += _by_curves(groups, plan)
    return tuple(found)


def _by_sensitivity(rows: Sequence[Row], measured: Mapping[str, Sensitivity]) -> Iterator[str]:
    rows = [row for row in rows if row["layer"] in measured and measured[row["layer"]].rates]
    if len(rows) < 2:
        return
    most = max(rows, key=lambda row: float(row["removed"]))
    rate, value = _nearest(measured[most["layer"]], most["removed"])
    yield (
        f"{most['layer']} lost the largest share, {share(most['removed'], 1)}: with "
        f"{share(rate, 0)} of it alone removed, the answers diverged by {value:.2g} nats, "
        f"{_against(value, _at(rate, measured), 'least')}."
    )
    least = min(float(row["removed"]) for row in rows)
    kept = [measured[row["layer"]] for row in rows if row["removed"] == least]
    firsts = [(*min(zip(e.rates, e.values, strict=True)), e.group) for e in kept]
    rate, value, name = max(firsts, key=lambda first: first[1])
    if name == most["layer"]:
        return
    how = "was kept whole" if least == 0 else f"lost the smallest share, {share(least, 1)}"
    yield (
        f"{name} {how}: with {share(rate, 0)} of it alone removed, they already diverged by "
        f"{value:.2g} nats, {_against(value, _at(rate, measured), 'most')}."
    )


def _nearest(entry: Sensitivity, rate: float) -> tuple[float, float]:
    """The measured rate that is nearest, and the measure there."""
    pairs = zip(entry.rates, entry.values, strict=True)
    return min(pairs, key=lambda pair: abs(pair[0] - rate))


def _at(rate: float, measured: Mapping[str, Sensitivity]) -> list[float]:
    """The measure of every layer at about a rate."""
    nearest = [_nearest(entry, rate) for entry in measured.values() if entry.rates]
    return [value for found, value in nearest if abs(found - rate) <= _NEAR]


def _against(value: float, others: Sequence[float], end: str) -> str:
    """How a measure compares, at about the same rate."""
    if value == (min(others) if end == "least" else max(others)):
        return f"the {end} of all {len(others)} layers at about that rate"
    return f"where the median of {len(others)} layers is {median(others):.2g}"


def _by_curves(groups: Sequence[Row], plan: Mapping[str, Any]) -> Iterator[str]:
    """The first layer that was pruned, with what its curve allowed, and one that was left."""
    curves = {str(curve.get("layer")): curve for curve in plan.get("robustness") or ()}
    steps = [
        step
        for step in (plan.get("policy") or {}).get("steps") or ()
        if str(step.get("layer")) in curves
    ]
    if not steps:
        return
    first = steps[0]
    within = [p["rate"] for p in curves[first["layer"]].get("curve") or () if p.get("within")]
    if within:
        yield (
            f"{first['layer']} came first: pruned alone, it kept the constraint at rates up to "
            f"{share(max(within), 0)}, and {share(first['rate'], 0)} of it was removed."
        )
    left = [row["layer"] for row in groups if row["target"] is False and not row["removed"]]
    if left:
        yield f"{left[0]} was kept whole: even alone, no rate kept the constraint."


def better_than_shipped(tried: Sequence[TriedPlan], manifest: Mapping[str, Any]) -> str:
    """Why candidates of the frontier that look better than the shipped plan are not shipped.

    Args:
        tried: all candidates.
        manifest: content of `manifest.json`.

    Returns:
        A sentence; empty where none is both allowed and smaller or more accurate.
    """
    constraints, chosen = manifest.get("constraints") or {}, shipped_point(manifest)
    most, budget = (number(constraints.get(k)) for k in ("max_drop_points", "budget_bytes"))
    if chosen is None or not constraints.get("met"):
        return ""
    mb, change = chosen
    better = [
        plan
        for plan in frontier_of(tried)
        if not plan.accepted
        and (most is None or plan.drop <= most)
        and (not budget or plan.bytes <= budget)
        and (plan.bytes / 1e6 < mb or -plan.drop > change)
    ]
    if not better:
        return ""
    search = (manifest.get("accuracy") or {}).get("search") or {}
    n, fewest = number((search.get("dense") or {}).get("n")), min(plan.n for plan in better)
    few = ""
    if n and fewest < n:
        few = f"; some were judged on {fixed(fewest)} of {fixed(n)} images only"
    return (
        "Points of that line that are allowed, and smaller or more accurate than what is shipped, "
        f"are not where the search went: it ends as soon as the budget is met{few}."
    )
