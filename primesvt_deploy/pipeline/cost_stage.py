"""A stage that is still to come, with the range of its seconds and what it evaluates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.progress import PlannedStage

__all__ = ["ExpectedStage", "expected_stage"]


@dataclass(frozen=True, kw_only=True)
class ExpectedStage(PlannedStage):
    """A planned stage whose seconds were estimated from measured ones.

    Args:
        span: its seconds.
        candidates: that it evaluates; None: none.
        evaluated: images of all of them; None: none.
        compared: images that the dense model has been evaluated on by its end; None: none in it.
    """

    span: Span
    candidates: Span | None = None
    evaluated: Span | None = None
    compared: Span | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "stage": self.name,
            "seconds": self.span.to_dict(1),
            "candidates": self.candidates.to_dict(1) if self.candidates else None,
            "images": self.evaluated.to_dict() if self.evaluated else None,
        }


def expected_stage(
    pace: Pace,
    name: str,
    work_s: Span | float,
    *,
    fixed_s: float = 0.0,
    guessed: bool = False,
    candidates: Span | None = None,
    evaluated: Span | None = None,
    compared: Span | None = None,
) -> ExpectedStage:
    """A stage of so much work; if the machine turns out slower than measured, it is as much longer.

    Args:
        pace: as measured.
        name: as progress gets it.
        work_s: seconds of what the machine's speed decides.
        fixed_s: seconds of what it does not.
        guessed: see `PlannedStage`.
        candidates: that it evaluates.
        evaluated: images of all of them.
        compared: images that the dense model has been evaluated on by its end.
    """
    work = work_s if isinstance(work_s, Span) else Span.exactly(work_s)
    return ExpectedStage(
        name=name,
        images=work.likely / pace.image_s,
        seconds=fixed_s,
        image_s=pace.image_s,
        guessed=guessed or not work.is_exact,
        span=work + Span.exactly(fixed_s),
        candidates=candidates,
        evaluated=evaluated,
        compared=compared,
    )
