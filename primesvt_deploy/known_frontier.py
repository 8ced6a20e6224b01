"""A frontier that was made before: its files, and the ledger that answers from it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.config import SearchSettings
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model import SViT
from primesvt_deploy.pipeline import question
from primesvt_deploy.pruning.ledger import Ledger

__all__ = ["FRONTIER_FILE", "LEDGER_FILE", "SCHEMA", "KnownFrontier"]

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
