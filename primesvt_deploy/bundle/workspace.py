"""The working directory of a build, from which its bundle is placed whole or not at all.

While a build to `DIR` is under way, `DIR.work/` holds the ledger, from which an interrupted build
resumes, and the bundle as it is written. A finished bundle is moved to `DIR` by renaming, and
`DIR.work/` is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType

from primesvt_deploy.edge.runtime.bundle import SIGNATURE, unlisted_files
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.manifest import MANIFEST, read_manifest
from primesvt_deploy.edge.whole_file import PARTIAL
from primesvt_deploy.errors import BundleError, OutputError

__all__ = ["Workspace"]

_MARKER = "primesvt-deploy.work"
_LEFTOVERS = ("bundle", "previous", "candidates")
_OWN = {_MARKER, *_LEFTOVERS, "dense.onnx", f"dense.onnx{PARTIAL}", "checkpoints"}


class Workspace:
    """The working directory of one build; a context manager that holds its lock.

    Args:
        output: path of the bundle.
        force: replace a bundle that exists there.

    Raises:
        OutputError: something at `output` must not be replaced, the working directory is not a
            build's or is in use, or nothing can be written there.
    """

    def __init__(self, output: str | os.PathLike[str], *, force: bool) -> None:
        self.output = Path(os.path.abspath(output))
        if not self.output.name:
            raise OutputError(f"{self.output} is no place for a bundle: pass another --output")
        self.path = self.output.with_name(f"{self.output.name}.work")
        self._force = force
        try:
            self._check_output()
            self.output.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not (self.path / _MARKER).is_file():
                raise OutputError(
                    f"{self.path} exists and is not a build's: move it away, or pass another "
                    "--output"
                )
            self.path.mkdir(exist_ok=True)
            self._lock = (self.path / _MARKER).open("a")
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise OutputError(f"cannot write at {self.path}: {reason_of(error)}") from error

    def __enter__(self) -> Workspace:
        """Take the lock and remove what an interrupted build left half-written."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise OutputError(
                f"another build is writing to {self.output}: wait for it, or pass another --output"
            ) from error
        if not _is_same_file(self._lock.fileno(), self.path / _MARKER):
            self._lock.close()
            raise OutputError(
                f"another build to {self.output} has just ended: run this one again, with --force "
                "to replace its bundle"
            )
        self._recover()
        return self

    def _recover(self) -> None:
        """Put the old bundle back, and remove files that a killed build left."""
        previous = self.path / "previous"
        if previous.exists() and not os.path.lexists(self.output):
            # Killed between moving the old bundle away and the new one in.
            os.replace(previous, self.output)
            self._check_output()
        for leftover in _LEFTOVERS:
            shutil.rmtree(self.path / leftover, ignore_errors=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock; the ledger stays unless the bundle was placed."""
        if self.path.is_dir() and [path.name for path in self.path.iterdir()] == [_MARKER]:
            shutil.rmtree(self.path)  # refused before any work
        self._lock.close()

    def ledger_path(self, search_key: str) -> Path:
        """Path of the ledger of one search key: a digest of model, data and settings."""
        return self.path / f"ledger-{search_key[:16]}.jsonl"

    def staging(self) -> Path:
        """A fresh directory in which the bundle is written."""
        directory = self.path / "bundle"
        directory.mkdir()
        return directory

    def candidates(self) -> Path:
        """A directory for the artifacts among which one is chosen to be shipped."""
        directory = self.path / "candidates"
        directory.mkdir(exist_ok=True)
        return directory

    def checkpoints(self) -> Path:
        """A directory for checkpoints of fine-tuning, from which it resumes."""
        directory = self.path / "checkpoints"
        directory.mkdir(exist_ok=True)
        return directory

    def place(self, staged: Path) -> None:
        """Move the finished bundle to the output path and remove the working directory.

        Raises:
            OutputError: something else was put at the output path in the meantime, or it cannot
                be replaced (a mount point cannot); what was there is there still.
        """
        self._check_output()
        previous = self.path / "previous"
        shutil.rmtree(previous, ignore_errors=True)
        try:
            if self.output.exists():
                os.replace(self.output, previous)
            os.replace(staged, self.output)
        except OSError as error:
            if previous.exists():
                os.replace(previous, self.output)
            raise OutputError(
                f"cannot move the bundle to {self.output} ({error.strerror}): it stands whole at "
                f"{staged}, move it from there"
            ) from error
        for path in self.path.iterdir():
            if path.name in _OWN or path.name.startswith("ledger-"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _check_output(self) -> None:
        if not os.path.lexists(self.output):
            return
        if self.output.is_symlink() or not self.output.is_dir():
            raise OutputError(f"{self.output} is not a directory: pass another --output")
        if not self._force:
            raise OutputError(
                f"{self.output} exists: pass another --output, or --force to replace a bundle"
            )
        foreign = _foreign_files(self.output)
        if foreign:
            raise OutputError(
                f"{self.output} holds what no build wrote ({foreign[0]}): move it away; --force "
                "replaces bundles only"
            )


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file: a finished build removes its own."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _foreign_files(directory: Path) -> list[str]:
    """Files in a directory that its manifest does not list; all of them if it is no bundle."""
    try:
        listed = read_manifest(directory)["files"]
    except BundleError:
        return unlisted_files(directory)
    return unlisted_files(directory, {MANIFEST, SIGNATURE, *listed})
