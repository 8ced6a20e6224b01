"""Size against accuracy: every candidate that the search evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from primesvt_deploy.report.charts.style import (
    ALLOWED,
    INK,
    MARKED,
    MUTED,
    QUIET,
    SHIPPED,
    Figure,
    Key,
    Row,
    chart_of,
    figure,
    layered,
    tooltip,
)
from primesvt_deploy.report.content import TriedPlan
from primesvt_deploy.report.numbers import fixed, interval, number, points, share, size

__all__ = ["enough_images", "frontier_of", "shipped_point", "size_and_accuracy"]

_ROBUSTNESS = "robustness"
_JUDGED = {
    "": "on all of them",
    "within": "until it surely kept the constraint",
    "beyond": "until it surely lost too much",
}
_HEIGHT = 380
_LEAST_SHOWN = 5.0
"""Points that are always within the chart."""


@dataclass(frozen=True)
class _Frame:
    """The range that the chart shows: megabytes, and the change of top-1 in points."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, field: str) -> alt.X:
        scale = alt.Scale(domain=[self.left, self.right], nice=False, zero=False)
        axis = alt.Axis(title="MB that the budget counts, predicted", tickCount=6, grid=False)
        return alt.X(f"{field}:Q", scale=scale, axis=axis)

    def y(self, field: str) -> alt.Y:
        scale = alt.Scale(domain=[self.bottom, self.top], nice=False, zero=False)
        axis = alt.Axis(title="change of top-1, points, search images", tickCount=7)
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)


def enough_images(tried: Sequence[TriedPlan]) -> int:
    """Half of the most images that a candidate was judged on."""
    return -(-max((plan.n for plan in tried), default=0) // 2)


def frontier_of(tried: Sequence[TriedPlan]) -> list[TriedPlan]:
    """Candidates that no other one beats in both size and accuracy, smallest first.

    Only those that were judged on enough images: on fewer, luck would win.
    """
    enough = enough_images(tried)
    best: list[TriedPlan] = []
    seen = [plan for plan in tried if plan.decision != "beyond" and plan.n >= enough]
    for plan in sorted(seen, key=lambda plan: (plan.bytes, plan.drop)):
        if not best or plan.drop < best[-1].drop:
            best.append(plan)
    return best


def size_and_accuracy(tried: Sequence[TriedPlan], manifest: Mapping[str, Any]) -> Figure | None:
    """Every candidate, the path to the shipped plan, the frontier, and what was allowed.

    Args:
        tried: all candidates.
        manifest: content of `manifest.json`.

    Returns:
        None where nothing was tried.
    """
    if not tried:
        return None
    constraints = manifest.get("constraints") or {}
    most, budget = (number(constraints.get(k)) for k in ("max_drop_points", "budget_bytes"))
    chosen = shipped_point(manifest)
    frame = _frame(tried, most, budget, chosen)
    layers = [
        *_allowed(frame, most, budget, chosen),
        *_lines(frame, tried),
        *_candidates(frame, tried),
        *_shipped(frame, chosen, budget),
    ]
    label = (
        f"{len(tried)} candidates of the search by size and by change of top-1, with the budget, "
        "the constraint and the shipped plan"
    )
    key = _key(frame, tried, chosen, limited=most is not None or budget is not None)
    return figure("search", label, layered(*layers), height=_HEIGHT, key=key)


def _key(
    frame: _Frame, tried: Sequence[TriedPlan], chosen: tuple[float, float] | None, *, limited: bool
) -> Key:
    """The legend: only of what the chart has."""
    alone = any(plan.step == _ROBUSTNESS for plan in tried)
    others = any(plan.step != _ROBUSTNESS and not plan.accepted for plan in tried)
    way = [plan for plan in tried if plan.step != _ROBUSTNESS and plan.accepted]
    # The last one on the way lies below the diamond of what is shipped.
    hidden = chosen is not None and bool(way) and _below_the_diamond(frame, way[-1], chosen)
    return tuple(
        (colour, text)
        for shown, colour, text in (
            (alone, QUIET, "one layer pruned alone"),
            (others, "hollow", "candidate"),
            (len(way) > hidden, SHIPPED, "accepted on the way"),
            (len(_drawn_best(frame, tried)) > 1, "line", "best of each size"),
            (chosen is not None, MARKED, "shipped"),
            (limited, ALLOWED, "allowed"),
        )
        if shown
    )


def _below_the_diamond(frame: _Frame, plan: TriedPlan, chosen: tuple[float, float]) -> bool:
    wide, high = frame.right - frame.left, frame.top - frame.bottom
    aside, above = plan.bytes / 1e6 - chosen[0], -plan.drop - chosen[1]
    return abs(aside) < 0.01 * wide and abs(above) < 0.01 * high


def shipped_point(manifest: Mapping[str, Any]) -> tuple[float, float] | None:
    """Bytes and change of top-1 of what is shipped, on search images."""
    used = number((manifest.get("constraints") or {}).get("used_bytes"))
    search = (manifest.get("accuracy") or {}).get("search") or {}
    drop = number(search.get("drop_points"))
    return None if used is None or drop is None else (used / 1e6, -drop)


def _frame(
    tried: Sequence[TriedPlan],
    most: float | None,
    budget: float | None,
    chosen: tuple[float, float] | None,
) -> _Frame:
    sizes = [plan.bytes / 1e6 for plan in tried]
    sizes += [budget / 1e6] if budget else []
    sizes += [chosen[0]] if chosen else []
    margin = 0.05 * max(max(sizes) - min(sizes), 0.02 * max(sizes))
    wanted = [_LEAST_SHOWN, 3.0 * (most or 0.0), *(1.2 * p.drop for p in tried if p.accepted)]
    wanted += [-1.2 * chosen[1]] if chosen else []
    worst = max(1.05 * plan.drop for plan in tried)
    top = max(-min(plan.drop for plan in tried), 0.0)
    bottom = -min(max(wanted), max(worst, 1.3 * (most or 0.0), 0.5))
    return _Frame(min(sizes) - margin, max(sizes) + margin, bottom, top + 0.08 * (top - bottom))


def _allowed(
    frame: _Frame,
    most: float | None,
    budget: float | None,
    chosen: tuple[float, float] | None,
) -> Iterator[alt.Chart]:
    """The corner that meets both constraints, and their lines."""
    x = budget / 1e6 if budget else frame.right
    y = frame.bottom if most is None else -most
    corner = chart_of([{"left": frame.left, "right": x, "bottom": y, "top": frame.top}])
    yield corner.mark_rect(color=ALLOWED).encode(
        x=frame.x("left"), x2="right:Q", y=frame.y("bottom"), y2="top:Q"
    )
    if budget:
        line = chart_of([{"x": x, "told": f"budget {size(budget)}"}]).encode(x=frame.x("x"))
        yield line.mark_rule(strokeDash=[5, 3], color=MUTED)
        # At the end of the line that is further from what is shipped and its name.
        low = chosen is not None and chosen[1] > frame.top - 0.4 * (frame.top - frame.bottom)
        yield line.mark_text(
            align="left" if low else "right",
            baseline="bottom",
            angle=270,
            dy=-4,
            dx=8 if low else -2,
            color=MUTED,
            fontSize=11,
        ).encode(y=alt.value(_HEIGHT if low else 0), text="told:N")
    if most is not None:
        line = chart_of([{"y": y, "told": f"allowed: {points(most, 1)} lost"}])
        line = line.encode(y=frame.y("y"))
        yield line.mark_rule(strokeDash=[5, 3], color=MUTED)
        yield line.mark_text(
            align="left", baseline="top", dx=4, dy=4, color=MUTED, fontSize=11
        ).encode(x=alt.value(0), text="told:N")


def _drawn_best(frame: _Frame, tried: Sequence[TriedPlan]) -> list[Row]:
    best = [{"x": plan.bytes / 1e6, "y": -plan.drop} for plan in frontier_of(tried)]
    return [point for point in best if point["y"] >= frame.bottom]


def _lines(frame: _Frame, tried: Sequence[TriedPlan]) -> Iterator[alt.Chart]:
    """The frontier, and the way to the plan that was chosen."""
    best = _drawn_best(frame, tried)
    if len(best) > 1:
        yield (
            chart_of(best)
            .mark_line(interpolate="step-after", color=INK, strokeWidth=1, opacity=0.6)
            .encode(x=frame.x("x"), y=frame.y("y"), order=alt.Order("x:Q"))
        )
    way = [plan for plan in tried if plan.accepted and plan.step != _ROBUSTNESS]
    rows = [
        {"i": i, "x": plan.bytes / 1e6, "y": max(-plan.drop, frame.bottom)}
        for i, plan in enumerate(way)
    ]
    if len(rows) > 1:
        yield (
            chart_of(rows)
            .mark_line(color=SHIPPED, strokeWidth=1.5, opacity=0.7)
            .encode(x=frame.x("x"), y=frame.y("y"), order=alt.Order("i:Q"))
        )


def _candidates(frame: _Frame, tried: Sequence[TriedPlan]) -> Iterator[alt.Chart]:
    """A point a candidate; those that lose more lie as triangles on the lower side."""
    kinds: dict[str, list[Row]] = {"alone": [], "tried": [], "accepted": []}
    for plan in tried:
        kind = "alone" if plan.step == _ROBUSTNESS else "accepted" if plan.accepted else "tried"
        kinds[kind].append(_point(frame, plan))
    looks = {
        "alone": {"color": QUIET, "filled": True, "size": 22, "opacity": 0.8},
        "tried": {"color": SHIPPED, "filled": False, "size": 34, "opacity": 0.8},
        "accepted": {"color": SHIPPED, "filled": True, "size": 42, "opacity": 1},
    }
    told = tooltip(what="candidate", size="size", drop="lost", n="images", judged="judged")
    for kind, rows in kinds.items():
        for beyond, shape in ((False, "circle"), (True, "triangle-down")):
            some = [row for row in rows if row["beyond"] is beyond]
            if some:
                mark = chart_of(some).mark_point(shape=shape, **looks[kind])  # type: ignore[arg-type]
                yield mark.encode(x=frame.x("x"), y=frame.y("y"), tooltip=told)


def _point(frame: _Frame, plan: TriedPlan) -> Row:
    group = plan.group or "several layers"
    return {
        "x": round(plan.bytes / 1e6, 6),
        "y": round(max(-plan.drop, frame.bottom), 4),
        "beyond": -plan.drop < frame.bottom,
        "what": f"{plan.step}: {group}, {share(plan.rate)} removed",
        "size": size(plan.bytes),
        "drop": f"{points(plan.drop)} {interval((plan.low, plan.high), 2)}",
        "n": fixed(plan.n),
        "judged": _JUDGED[plan.decision],
    }


def _shipped(
    frame: _Frame, chosen: tuple[float, float] | None, budget: float | None
) -> Iterator[alt.Chart]:
    if chosen is None:
        return
    x, y = chosen
    row = {
        "x": x,
        "y": max(y, frame.bottom),
        "size": size(1e6 * x),
        "drop": points(-y),
        "what": "shipped, as measured",
    }
    base = chart_of([row]).encode(
        x=frame.x("x"),
        y=frame.y("y"),
        tooltip=tooltip(what="candidate", size="size", drop="lost"),
    )
    yield base.mark_point(shape="diamond", filled=True, size=170, color=MARKED, opacity=1)
    # Its name stands away from the line of the budget, where there is room for it.
    room = (x - frame.left) / (frame.right - frame.left)
    right = room < 0.75 if budget and x > budget / 1e6 else room < 0.25
    place: dict[str, Any] = {"align": "left" if right else "right", "dx": 10 if right else -10}
    # Twice: other points do not show through the letters.
    outlines: tuple[dict[str, Any], ...] = ({"stroke": "var(--page)", "strokeWidth": 4}, {})
    for outline in outlines:
        word = base.mark_text(dy=-10, fontWeight="bold", **place, **outline)
        yield word.encode(text=alt.value("shipped"))
