"""How long-running stages tell where they are; only the CLI draws it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Progress"]


class Progress(Protocol):
    """Receives what a stage does."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` steps begins; the one before has ended."""

    def step(self, note: str = "") -> None:
        """One step of the current stage is done; `note` says what was found."""

    def message(self, text: str) -> None:
        """Something a user should read."""


class _Silent:
    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def step(self, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


SILENT: Progress = _Silent()
