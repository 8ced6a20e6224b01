"""The directory that a frontier is written to: one call's at a time, never half-written."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from primesvt_deploy.errors import OutputError
from primesvt_deploy.known_frontier import FRONTIER_FILE, LEDGER_FILE

__all__ = ["FrontierDirectory"]


class FrontierDirectory:
    """Where one frontier is made.

    Args:
        path: made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / LEDGER_FILE

    def begin(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is known from a call that was interrupted; the directory is ours from now on.

        Args:
            asked: what tells this frontier from others; a known one must have the same.

        Raises:
            OutputError: something else stands there, another call is writing, or nothing can be
                written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file: pass a directory as --output")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._is_fresh():
                self._lock()
                fresh = {**asked, "points": []}
                self.write(fresh)
                return fresh
        except OSError as error:
            raise OutputError(f"cannot write at {self.path}: {error.strerror}") from error
        try:
            text = (self.path / FRONTIER_FILE).read_text(encoding="utf-8")
            known: dict[str, Any] = json.loads(text)
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.path} is not empty and holds no frontier: pass another --output"
            ) from error
        if not isinstance(known, dict) or {k: known.get(k) for k in asked} != asked:
            raise OutputError(
                f"{self.path} holds the frontier of another model, data, settings, policy or "
                "version: pass another --output"
            )
        self._lock()
        return known

    def write(self, content: dict[str, Any]) -> None:
        """Put `frontier.json` there, whole or not at all."""
        beside = self.path / f"{FRONTIER_FILE}.partial"
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path / FRONTIER_FILE)

    def close(self) -> None:
        """Let others write there."""
        self._held.close()

    def _is_fresh(self) -> bool:
        """Whether nothing stands there but what a call leaves that ended before its first word."""
        for path in self.path.iterdir():
            empty_ledger = path.name == LEDGER_FILE and not path.stat().st_size
            if path.name != f"{FRONTIER_FILE}.partial" and not empty_ledger:
                return False
        return True

    def _lock(self) -> None:
        """Hold the ledger until this process ends."""
        self._held = self.ledger.open("a")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"another frontier is writing to {self.path}: wait for it, or pass another --output"
            ) from error
