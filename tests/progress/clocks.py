"""A clock that tests move on."""

from __future__ import annotations


class Clock:
    """Gives the time that it was set to, s."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        """Move on."""
        self.seconds += seconds
