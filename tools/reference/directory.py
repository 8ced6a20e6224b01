"""The directory of a training run: its identity, its log, its checkpoint, its weights.

`run.json` identifies network, recipe and data; `checkpoint.pt` has the state from which the run
resumes, `averaged.pt` the averaged weights by the end of the last whole epoch; `log.jsonl` has a
line for every so many steps, for each epoch and for each start. Checkpoint and weights are written
whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import OutputError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.training.loop import load_state, save_state
from reference.recipe import Training

__all__ = ["CHECKPOINT", "IDENTITY", "LOG", "WEIGHTS", "RunDirectory", "identity", "read_log"]

CHECKPOINT, IDENTITY, LOG, WEIGHTS = "checkpoint.pt", "run.json", "log.jsonl", "averaged.pt"


def identity(model: SViT, training: Training, **further: str) -> dict[str, Any]:
    """Identity of a run, as plain values of JSON: network, recipe and further digests."""
    network = {
        "name": model.name,
        "family": model.family.name,
        "arguments": asdict(model.config),
        "labels": list(model.labels),
    }
    content = {"network": network, "training": asdict(training), **further}
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a log, without damaged or half-written lines.

    Raises:
        OSError: it cannot be read.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [entry for entry in map(_entry, lines) if entry]


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run at `path`.

    Raises:
        OutputError: from each method: a file cannot be read or written, or is damaged.
    """

    path: Path

    @contextlib.contextmanager
    def held(self, run: dict[str, Any]) -> Iterator[None]:
        """Hold the directory for this run alone; it is made if it does not exist.

        Raises:
            OutputError: it holds another run's files, or another process trains there.
        """
        with _output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            found = [name for name in (CHECKPOINT, WEIGHTS, LOG) if (self.path / name).exists()]
            if found and not (self.path / IDENTITY).exists():
                raise OutputError(
                    f"{self.path} holds {found[0]} of something else: pass another --output"
                )
            lock = (self.path / IDENTITY).open("a+", encoding="utf-8")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"another process trains in {self.path}: wait for it, or pass another --output"
                ) from error
            with _output_errors(self.path):
                lock.seek(0)
                self._require_same(lock.read(), run)
                if lock.tell() == 0:
                    lock.write(json.dumps(run, indent=1) + "\n")
                    lock.flush()
            yield

    def _require_same(self, written: str, run: dict[str, Any]) -> None:
        if not written:
            return
        try:
            other = dict(json.loads(written))
        except (ValueError, TypeError) as error:
            raise OutputError(
                f"{self.path / IDENTITY} is damaged: pass another --output"
            ) from error
        if other != run:
            raise OutputError(
                f"{self.path} holds a run with {_difference(other, run)}: pass another --output"
            )

    def identity(self) -> dict[str, Any]:
        """The identity of the run.

        Raises:
            OutputError: there is no run here, or its file is damaged.
        """
        path = self.path / IDENTITY
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise OutputError(f"{self.path} is no run: it has no {IDENTITY}") from error
        except (ValueError, TypeError) as error:
            raise OutputError(f"{path} is damaged: it is not what was written there") from error

    def checkpoint(self, keys: frozenset[str]) -> dict[str, Any] | None:
        """State from which the run resumes, on the CPU; None: there is none yet."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            return load_state(path, keys)
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise OutputError(f"{path} is damaged: remove it to begin this run anew") from error

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint or weights to the file of this name."""
        with _output_errors(self.path / name):
            save_state(self.path / name, state)

    def append(self, line: dict[str, Any]) -> None:
        """Append a line to the log."""
        with _output_errors(self.path / LOG), (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def logged(self, step: int) -> list[dict[str, Any]]:
        """Entries of the log up to a step; later ones are removed: their steps are done again."""
        path = self.path / LOG
        with _output_errors(path):
            if not path.exists():
                return []
            written = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [
                line for line in written if (_entry(line) or {"step": step + 1})["step"] <= step
            ]
            if kept != written:
                write_whole(path, "".join(f"{line}\n" for line in kept))
        return [json.loads(line) for line in kept]


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Raise what the system says of writing `path` as an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    fits = isinstance(entry, dict) and isinstance(entry.get("step"), int)
    return entry if fits else None


def _difference(other: dict[str, Any], run: dict[str, Any]) -> str:
    """Words for what differs in another run's identity."""
    for name, words in (("network", "another network"), ("training", "another recipe")):
        before, now = other.get(name), run[name]
        if before == now:
            continue
        before = before if isinstance(before, dict) else {}
        changed = next(key for key in (*now, *before) if before.get(key) != now.get(key))
        return f"{words} ({changed}: {before.get(changed)}, not {now.get(changed)})"
    if other.get("initial") != run["initial"]:
        return "other initial weights"
    return "other training images"
