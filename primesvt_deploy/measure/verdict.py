"""Whether a build kept its constraints, as far as the held-out images show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.summary.words import points_lost

__all__ = ["Verdict", "VerdictState", "judge", "verdict_of"]


class VerdictState(StrEnum):
    """How far the constraints are known to be kept.

    MET: budget and accuracy are kept on the search split, and the interval of the held-out drop
    lies within the constraint. NOT_SHOWN: they are kept on the search split, but the interval
    reaches beyond the constraint, or lies beyond it. NOT_MET: budget or accuracy is not kept.
    """

    MET = "met"
    NOT_SHOWN = "met on the search split only"
    NOT_MET = "not met"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judgement in a word and in a sentence.

    Args:
        state: one of three.
        text: the sentence, with the figures that it rests on.
    """

    state: VerdictState
    text: str


def judge(
    *,
    budget_met: bool,
    accuracy_met: bool,
    max_drop: float | None,
    search_drop: float | None = None,
    held_out_drop: float | None = None,
    held_out_interval: Sequence[float] | None = None,
    sizes: tuple[int, int] | None = None,
    same_model: bool = False,
) -> Verdict:
    """Judge a build by its constraints and by what the held-out images show of them.

    Args:
        budget_met: whether what is shipped is within the budget.
        accuracy_met: whether no more is lost than allowed, on the search split.
        max_drop: points of top-1 that may be lost; None: any.
        search_drop: points lost on the search split; None: not evaluated.
        held_out_drop: points lost on the held-out split; None: not evaluated.
        held_out_interval: its 95% interval.
        sizes: bytes that were allowed, and bytes of what is shipped.
        same_model: the dense model is shipped as it was, which loses nothing on any images.
    """
    size = "" if sizes is None else " ({1} MB, {0} MB allowed)".format(*millions(*sizes))
    lost = _lost(held_out_drop, held_out_interval)
    if not (budget_met and accuracy_met):
        missed = [
            *([] if budget_met else [f"budget not met{size}"]),
            *(
                []
                if accuracy_met
                else [f"accuracy not kept on the search split{_on_search(search_drop, max_drop)}"]
            ),
        ]
        return Verdict(state=VerdictState.NOT_MET, text=f"Constraints not met: {'; '.join(missed)}")
    if same_model:
        text = f"Constraints met{size}: the dense model is shipped as it was"
        return Verdict(state=VerdictState.MET, text=text)
    if max_drop is None:
        text = f"Budget met{size}; no accuracy was asked for{lost and f': {lost}'}"
        return Verdict(state=VerdictState.MET, text=text)
    if held_out_interval is not None and held_out_interval[1] <= max_drop:
        text = f"Constraints met{size}: {lost}; {_allowed(max_drop)}"
        return Verdict(state=VerdictState.MET, text=text)
    beyond = held_out_interval is not None and held_out_interval[0] > max_drop
    more = f"a loss of more than {max_drop:g} is {'shown' if beyond else 'possible'}"
    shown = lost or "held-out images tell nothing"
    return Verdict(
        state=VerdictState.NOT_SHOWN,
        text=f"Budget met{size}; accuracy kept on the search split"
        f"{_on_search(search_drop, max_drop)}, but {shown}: {more}. Allow less (--max-drop), or "
        "report on more held-out images",
    )


def verdict_of(manifest: Mapping[str, Any]) -> Verdict:
    """Judge a bundle by its manifest, of this version or an earlier one."""
    constraints, accuracy = manifest["constraints"], manifest.get("accuracy") or {}
    size = manifest.get("size") or {}
    before, after = size.get("dense"), size.get("shipped")
    drop, search = accuracy.get("drop") or {}, accuracy.get("search") or {}
    # Without a target the shipped size is its own budget.
    targets = constraints.get("budget_mb"), constraints.get("saving_percent")
    sizes = constraints.get("budget_bytes"), constraints.get("used_bytes")
    met = bool(constraints["met"])
    return judge(
        budget_met=bool(constraints.get("budget_met", met)),
        accuracy_met=bool(constraints.get("accuracy_met", met)),
        max_drop=constraints.get("max_drop_points"),
        search_drop=search.get("drop_points"),
        held_out_drop=drop.get("points"),
        held_out_interval=drop.get("interval95_points"),
        sizes=None if None in sizes or targets == (None, None) else sizes,
        same_model=before is not None and before == after,
    )


def _lost(points: float | None, interval: Sequence[float] | None) -> str:
    if points is None or interval is None:
        return ""
    low, high = interval
    return (
        f"{points_lost(points)} on held-out images "
        f"(95% interval of the loss [{low:.2f}, {high:.2f}])"
    )


def _on_search(points: float | None, max_drop: float | None) -> str:
    if points is None or max_drop is None:
        return ""
    return f" ({points_lost(points)}; {_allowed(max_drop)})"


def _allowed(max_drop: float) -> str:
    return f"a loss of {max_drop:g} is allowed"
