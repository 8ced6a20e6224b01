"""A progress that keeps what it gets, and refuses what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from primesvt_deploy.progress import PlannedStage, Silent

__all__ = ["Recorded", "RecordedStage"]


@dataclass
class RecordedStage:
    """What was told of a stage.

    Args:
        name: of the stage.
        total: its steps.
        notes: of its steps so far.
        advances: done and total of its parts, by step.
        planned: whether it was among the planned ones as it began.
    """

    name: str
    total: int
    planned: bool
    notes: list[str] = field(default_factory=list)
    advances: list[list[tuple[int, int, str]]] = field(default_factory=lambda: [[]])

    @property
    def is_done(self) -> bool:
        """Whether all of its steps were told."""
        return len(self.notes) == self.total

    @property
    def last(self) -> tuple[int, int, str]:
        """The last that was told of the parts of its first step."""
        return self.advances[0][-1]


class Recorded(Silent):
    """Keeps stages, plans and messages; fails where a stage has more steps than it said."""

    def __init__(self) -> None:
        self.stages: list[RecordedStage] = []
        self.plans: list[list[str]] = []
        self.messages: list[str] = []

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Keep the names."""
        self.plans.append([stage.name for stage in stages])

    def stage(self, name: str, total: int, unit: str = "steps") -> None:
        """Keep a new stage."""
        planned = [other for plan in self.plans[-1:] for other in plan]
        known = any(name == other or name.startswith(f"{other} ") for other in planned)
        self.stages.append(RecordedStage(name, total, known))

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Keep how far the step is, which never goes back or beyond its total."""
        told = self.stages[-1].advances[-1]
        assert not total or done <= total, (self.stages[-1].name, done, total)
        assert not told or told[-1][0] <= done, (self.stages[-1].name, told[-1], done)
        told.append((done, total, unit))

    def step(self, note: str = "") -> None:
        """Count a step, of which there are no more than the stage said."""
        stage = self.stages[-1]
        stage.notes.append(note)
        stage.advances.append([])
        assert len(stage.notes) <= stage.total, stage.name

    def message(self, text: str, *more: str) -> None:
        """Keep lines."""
        self.messages += [text, *more]

    def __getitem__(self, name: str) -> RecordedStage:
        """The last stage of a name."""
        return [stage for stage in self.stages if stage.name == name][-1]
