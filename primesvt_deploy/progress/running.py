"""The stage that runs: how far it is, and in which words that is told."""

from __future__ import annotations

from primesvt_deploy.progress.words import count_of, seconds_taken

__all__ = ["RunningStage"]

_RESULTS = 2
"""Steps up to which a stage's notes are its result."""


class RunningStage:
    """How far a stage is.

    Args:
        name: of the stage.
        total: its steps.
        unit: their name, in the plural.
        begun: time on the clock of its beginning, s.
    """

    def __init__(self, name: str, total: int, unit: str, begun: float) -> None:
        self.name, self.total, self.unit, self.begun = name, total, unit, begun
        self.note = ""
        self._done = 0
        self._part: tuple[int, int, str] = (0, 0, "")
        self._notes: list[str] = []
        self._parts = 0

    def advance(self, done: int, total: int, unit: str) -> None:
        """Say how far the current step is."""
        self._part = (min(done, total) if total else done, total, unit)

    def step(self, note: str) -> None:
        """Count a step."""
        self._done = min(self._done + 1, self.total)
        if note:
            self.note = note
            self._notes.append(note)
        done, _, unit = self._part
        self._parts += done
        self._part = (0, 0, unit)

    @property
    def share(self) -> float:
        """Share that is done, 0 to 1; 0 while nothing tells."""
        if not self.total:
            return 1.0
        done, total, _ = self._part
        within = done / total if total and self._done < self.total else 0.0
        return (self._done + within) / self.total

    @property
    def is_countable(self) -> bool:
        """Whether anything has told how far it is."""
        return self.share > 0.0 or self.total > 1

    @property
    def has_results(self) -> bool:
        """Whether it has so few steps that their notes are its result."""
        return self.total <= _RESULTS

    @property
    def count(self) -> str:
        """Steps or, of a single step, its parts: `43/180 points`; empty while nothing tells."""
        done, total, unit = self._part
        if self.total != 1:
            return count_of(self._done, self.total, self.unit) if self.unit else ""
        if self._done and self._parts and unit:
            return count_of(self._parts, self._parts, unit)
        return count_of(done, total, unit) if unit and (done or total) else ""

    @property
    def within(self) -> str:
        """How far the current one of several steps is; empty: nothing tells."""
        done, total, unit = self._part
        told = self.total != 1 and unit and (done or total)
        return count_of(done, total, unit) if told else ""

    def summary(self, seconds: float) -> str:
        """One line on the ended stage: its results if they are few, counts and time."""
        words = list(self._notes) if self.has_results else []
        if self._notes and not self.has_results and self._done < self.total:
            words.append(self._notes[-1])  # it ended because of that
        if self.total > 1 and self.unit:
            words.append(count_of(self._done, self.total, self.unit, all_done=True))
        if self._parts and self._part[2]:
            words.append(count_of(self._parts, self._parts, self._part[2], all_done=True))
        words.append(seconds_taken(seconds))
        return f"{self.name}: {', '.join(words)}"
