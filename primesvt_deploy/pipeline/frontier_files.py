"""The files of a frontier: one reader, one writer at a time, one schema, never half-written."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from primesvt_deploy.edge.runtime.checked_json import read_json
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.whole_file import PARTIAL, bundle_around, write_whole
from primesvt_deploy.errors import OutputError, SettingsError
from primesvt_deploy.pipeline.frontier_schema import (
    SCHEMA,
    check_begun,
    check_finished,
    search_settings,
)
from primesvt_deploy.pipeline.summaries import frontier_summary
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import SearchSettings
from primesvt_deploy.summary import Shown, Summary

if TYPE_CHECKING:
    from primesvt_deploy.data import DataSet
    from primesvt_deploy.model.svit import SViT

__all__ = [
    "FRONTIER_FILE",
    "LEDGER_FILE",
    "FrontierWriter",
    "KnownFrontier",
    "check_frontier",
    "check_points",
]

FRONTIER_FILE, LEDGER_FILE = "frontier.json", "ledger.jsonl"


@dataclass(frozen=True, repr=False)
class KnownFrontier(Shown):
    """A frontier that was made before, to answer later budgets from.

    Args:
        directory: where it lies.
        content: of its `frontier.json`.
    """

    directory: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> KnownFrontier:
        """Read the frontier in a directory.

        Raises:
            SettingsError: none is there, or it is of another version.
        """
        path = Path(directory)
        try:
            content = _content(path)
            if content is None:
                raise SettingsError(
                    f"{path} holds no frontier: pass a directory that `primesvt-deploy frontier` "
                    "wrote"
                )
            schema = content.get("schema")
            if type(schema) is int and schema != SCHEMA:
                raise SettingsError(
                    f"{path / FRONTIER_FILE} has schema {schema}, expected {SCHEMA}: make the "
                    "frontier again with this version"
                )
            if "settings" not in content or not (path / LEDGER_FILE).is_file():
                raise SettingsError(
                    f"the frontier in {path} is not whole: run the same `frontier` command again"
                )
            search_settings(check_finished(content)["settings"])
        except ValueError as error:
            raise SettingsError(
                f"{path / FRONTIER_FILE} is damaged ({error}): make the frontier again"
            ) from error
        return cls(path, content)

    def _summary(self) -> Summary:
        return frontier_summary(f"KnownFrontier {self.directory}", self.content)

    @property
    def search(self) -> SearchSettings:
        """The settings it was searched with."""
        return search_settings(self.content["settings"])

    def ledger(self, model: SViT, data: DataSet) -> Ledger:
        """Its ledger.

        Raises:
            SettingsError: it was made of another model, of other data, or by another version.
        """
        from primesvt_deploy.pipeline.image_sets import search_key  # torch, which reading needs not

        if search_key(model, data, self.search) != self.content["question"]:
            names = [on_one_line(self.content[name]) for name in ("model", "data")]
            raise SettingsError(
                f"{self.directory} is the frontier of {names[0]} on {names[1]} as they were then: "
                "model, data or version differ; pass the model and --data that it was made with, "
                "or make it again"
            )
        return Ledger(self.directory / LEDGER_FILE)


class FrontierWriter:
    """Writes the files of one frontier; a context manager that holds the directory's lock.

    Args:
        path: the directory; made if it does not exist.
        key: search key of the frontier.
        policy: its policy; a directory holds the frontier of one key and policy.

    Raises:
        OutputError: something else stands there, another call is writing, or nothing can be
            written.
    """

    def __init__(self, path: Path, *, key: str, policy: str) -> None:
        _refuse_place(path)
        self.path = path
        self._identity = {"schema": SCHEMA, "question": key, "policy": policy}
        try:
            path.mkdir(parents=True, exist_ok=True)
            fresh = _is_fresh(path)
            if not fresh:
                self.read()
            self._lock = _locked(path)
            try:
                if fresh and _is_fresh(path):
                    self.write({**self._identity, "points": []})
                else:
                    self.read()  # another call may have written meanwhile
            except BaseException:
                self._lock.close()
                raise
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write at {path}: {reason_of(error)}") from error

    def __enter__(self) -> FrontierWriter:
        """Held from its making on."""
        return self

    def __exit__(self, *_details: object) -> None:
        """Let others write there."""
        self._lock.close()

    @property
    def ledger_path(self) -> Path:
        """The file of evaluated candidates."""
        return self.path / LEDGER_FILE

    @property
    def decoded(self) -> Path:
        """The directory of decoded images, which is there while a frontier is made."""
        return self.path / "decoded"

    def read(self) -> dict[str, Any]:
        """The content so far: also that of a call that was interrupted.

        Raises:
            OutputError: it is damaged, missing, or another frontier's.
        """
        return _begun(self.path, self._identity)

    def write(self, content: dict[str, Any]) -> None:
        """Put `frontier.json` there, whole or not at all."""
        write_whole(self.path / FRONTIER_FILE, json.dumps(content, indent=1) + "\n")


def check_frontier(
    output: Path, savings: Sequence[float], timesteps: Sequence[int], held_out_images: int | None
) -> None:
    """Refuse, before anything is loaded, a frontier that cannot be made.

    Args:
        output: its directory.
        savings: percent of the weights' bytes to save, a point each.
        timesteps: T to run each point with besides the model's own.
        held_out_images: so many of the held-out split; None: all.

    Raises:
        SettingsError: a number out of range.
        OutputError: something else stands at `output`, or nothing can be written there.
    """
    check_points(savings, timesteps, held_out_images)
    _refuse_place(output)
    place = Path(os.path.abspath(output))
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write at {output}: {there} is no directory of yours to write to")
    try:
        if there == place and not _is_fresh(place) and _content(place) is None:
            raise OutputError(f"{output} is not empty and holds no frontier: pass another --output")
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot go on at {output}: {reason_of(error)}") from error


def _refuse_place(output: Path) -> None:
    """Refuse a file, and a place within a bundle or that is one."""
    if os.path.exists(output) and not os.path.isdir(output):
        raise OutputError(f"{output} is a file: pass a directory as --output")
    if bundle := bundle_around(output / FRONTIER_FILE):
        raise OutputError(
            f"{output} is within the bundle {bundle}, whose files are listed in its manifest: pass "
            "another --output"
        )


def check_points(
    savings: Sequence[float], timesteps: Sequence[int], held_out_images: int | None
) -> None:
    """Refuse points that no frontier has; see `check_frontier`."""
    if not savings or not all(0.0 < saving < 100.0 for saving in savings):
        raise SettingsError(
            f"savings are {list(savings)}: expected percents between 0 and 100, at least one"
        )
    if any(steps < 1 for steps in timesteps):
        raise SettingsError(f"ship timesteps are {list(timesteps)}: expected 1 or more each")
    if held_out_images is not None and held_out_images < 1:
        raise SettingsError(f"held-out images are {held_out_images}: expected 1 or more")


def _content(directory: Path) -> dict[str, Any] | None:
    """Parsed `frontier.json`; None where it is missing.

    Raises:
        ValueError: it cannot be read, or is no JSON table.
    """
    try:
        content = read_json(directory / FRONTIER_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(error.strerror) from error
    if not isinstance(content, dict):
        raise ValueError("it holds no table")
    return content


def _begun(directory: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Content of the frontier that a call goes on with; only one of this identity."""
    try:
        content = _content(directory)
        if content is None:
            raise OutputError(
                f"{directory} is not empty and holds no frontier: pass another --output"
            )
        if {name: content.get(name) for name in identity} != identity:
            raise OutputError(
                f"{directory} holds the frontier of another model, data, settings, policy or "
                "version: pass another --output"
            )
        return check_begun(content)
    except ValueError as error:
        raise OutputError(
            f"{directory / FRONTIER_FILE} is damaged ({error}): pass another --output"
        ) from error


def _is_fresh(directory: Path) -> bool:
    """Whether nothing stands there but the traces of a call that ended before its first write."""
    for path in directory.iterdir():
        empty_ledger = path.name == LEDGER_FILE and not path.stat().st_size
        if path.name != f"{FRONTIER_FILE}{PARTIAL}" and not empty_ledger:
            return False
    return True


def _locked(directory: Path) -> IO[str]:
    """The ledger, open; other calls are kept out until it is closed."""
    path = directory / LEDGER_FILE
    if os.path.lexists(path) and not path.is_file():
        raise OutputError(f"{path} is no regular file: move it away, or pass another --output")
    held = path.open("a")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise OutputError(
            f"another frontier is writing to {directory}: wait for it, or pass another --output"
        ) from error
    return held
