"""The files of a frontier: one reader, one writer at a time, one schema, never half-written."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.whole_file import PARTIAL, write_whole
from primesvt_deploy.errors import OutputError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.prune import question
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import SearchSettings

__all__ = ["FRONTIER_FILE", "LEDGER_FILE", "SCHEMA", "FrontierDirectory", "KnownFrontier"]

SCHEMA = 1
FRONTIER_FILE, LEDGER_FILE = "frontier.json", "ledger.jsonl"


@dataclass(frozen=True)
class KnownFrontier:
    """A frontier that was made before, to answer questions from.

    Args:
        directory: where it lies.
        content: of its `frontier.json`.
    """

    directory: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> KnownFrontier:
        """The frontier in a directory.

        Raises:
            SettingsError: none is there, or it is of another version.
        """
        path = Path(directory)
        try:
            content = json.loads((path / FRONTIER_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{path} holds no frontier: pass a directory that `primesvt-deploy frontier` wrote"
            ) from error
        if not isinstance(content, dict):
            raise SettingsError(f"{path / FRONTIER_FILE} is damaged: make the frontier again")
        if content.get("schema") != SCHEMA:
            raise SettingsError(
                f"{path / FRONTIER_FILE} has schema {content.get('schema')!r}, expected "
                f"{SCHEMA}: make the frontier again with this version"
            )
        if "settings" not in content or not (path / LEDGER_FILE).is_file():
            raise SettingsError(
                f"the frontier in {path} is not whole: run the same `frontier` command again"
            )
        return cls(path, content)

    @property
    def search(self) -> SearchSettings:
        """The settings it was searched with."""
        settings: dict[str, Any] = self.content["settings"]
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
        return SearchSettings(**values)

    def ledger(self, model: SViT, data: DataSet) -> Ledger:
        """Its ledger.

        Raises:
            SettingsError: it was made of another model, of other data, or by another version.
        """
        if question(model, data, self.search) != self.content["question"]:
            raise SettingsError(
                f"{self.directory} is the frontier of {self.content['model']} on "
                f"{self.content['data']} as they were then: model, data or version differ; pass "
                "the model and --data that it was made with, or make it again"
            )
        return Ledger(self.directory / LEDGER_FILE)


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
        write_whole(self.path / FRONTIER_FILE, json.dumps(content, indent=1) + "\n")

    def close(self) -> None:
        """Let others write there."""
        self._held.close()

    def _is_fresh(self) -> bool:
        """Whether nothing stands there but what a call leaves that ended before its first word."""
        for path in self.path.iterdir():
            empty_ledger = path.name == LEDGER_FILE and not path.stat().st_size
            if path.name != f"{FRONTIER_FILE}{PARTIAL}" and not empty_ledger:
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
