"""The working directory of a build, from which its bundle is placed whole or not at all.

While a build to `DIR` is under way, `DIR.work/` holds the ledger, from which an interrupted build
resumes, and the bundle as it is written. A finished bundle is moved to `DIR` by renaming, and
`DIR.work/` is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType

from primesvt_deploy.edge.runtime.bundle import SIGNATURE, unlisted_files
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.manifest import MANIFEST, read_manifest
from primesvt_deploy.edge.whole_file import PARTIAL, bundle_around
from primesvt_deploy.errors import BundleError, OutputError

__all__ = ["Workspace", "check_place", "pending_ledger"]

_MARKER = "primesvt-deploy.work"
_PLACING = b"placing\n"
"""Content of the marker from before the bundle is moved on; empty until then."""
_HALF_WRITTEN = ("bundle", "previous", "candidates")
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_TRIES = 100
"""Times that a marker is made where other builds end and remove its directory."""
_DIRECTORIES = {*_HALF_WRITTEN, "checkpoints", "decoded"}
_FILES = re.compile(
    rf"{re.escape(_MARKER)}|dense\.onnx(?:{re.escape(PARTIAL)})?|ledger-[0-9a-f]{{16}}\.jsonl"
)


class Workspace:
    """The working directory of one build; a context manager that holds its lock.

    Its marker is made first and leaves last, so that what a kill leaves is known at every moment to
    be a build's.

    Args:
        output: path of the bundle.
        force: replace a bundle that exists there.

    Raises:
        OutputError: something at `output` must not be replaced, the working directory is not a
            build's or is in use, or nothing can be written there.
    """

    def __init__(self, output: str | os.PathLike[str], *, force: bool) -> None:
        self.output, self.path = _places(output)
        self._force = force
        try:
            self._check_output()
            self.output.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
            self._lock = _marker_in(self.path)
        except OutputError:
            self._clear_if_placed()
            raise
        except (OSError, ValueError) as error:
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
        try:
            if not self._is_held():
                raise OutputError(
                    f"another build to {self.output} has just ended: run this one again, with "
                    "--force to replace its bundle"
                )
            self._recover()
        except BaseException:
            self._release()
            raise
        return self

    def _recover(self) -> None:
        """Put the old bundle back, and remove files that a killed build left."""
        previous = self.path / "previous"
        try:
            for path in self.path.iterdir():
                if _has_our_name(path) and not _is_as_written(path):
                    raise OutputError(f"{path} is not what a build writes there: move it away")
            if self._was_placed():
                _remove(previous)
            elif previous.exists() and not os.path.lexists(self.output):
                # Killed between moving the old bundle away and the new one in.
                os.replace(previous, self.output)
            self._lock.truncate(0)
            for name in _HALF_WRITTEN:
                _remove(self.path / name)
        except OSError as error:
            raise OutputError(f"cannot write at {self.path}: {error.strerror}") from error
        self._check_output()  # another build may have ended since the last look

    def _was_placed(self) -> bool:
        """Whether a bundle was moved to its place, and the rest of that build's files were not."""
        self._lock.seek(0)
        return self._lock.read() == _PLACING and not (self.path / "bundle").exists()

    def _is_held(self) -> bool:
        """Whether the marker is still the locked file: a finished build removes its own."""
        try:
            found = (self.path / _MARKER).stat()
        except OSError:
            return False
        return os.path.samestat(os.fstat(self._lock.fileno()), found)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock; the ledger stays unless the bundle was placed.

        Raises:
            OutputError: the disk was full, or could not be written to, meanwhile.
        """
        self._release()
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise OutputError(
                f"cannot write at {self.path} ({error.strerror}): make room there, or pass another "
                "--output; what was found is kept for the next call"
            ) from error

    def _release(self) -> None:
        if self._is_held() and os.listdir(self.path) == [_MARKER]:
            self._clear()  # refused before any work
        self._lock.close()

    def ledger_path(self, search_key: str) -> Path:
        """Path of the ledger of one search key: a digest of model, data and settings."""
        return self.path / _ledger_name(search_key)

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

    def decoded(self) -> Path:
        """Path of the directory of decoded images; whoever has some to keep makes it."""
        return self.path / "decoded"

    def place(self, staged: Path) -> None:
        """Move the finished bundle to the output path and remove the working directory.

        Raises:
            OutputError: something else was put at the output path in the meantime, or it cannot
                be replaced (a mount point cannot); what was there is there still.
        """
        self._check_output()
        previous = self.path / "previous"
        try:
            self._lock.write(_PLACING)
            if self.output.exists():
                os.replace(self.output, previous)
            os.replace(staged, self.output)
        except BaseException as error:
            if previous.exists() and not os.path.lexists(self.output):
                os.replace(previous, self.output)
            if not isinstance(error, OSError):
                raise
            raise OutputError(
                f"cannot move the bundle to {self.output} ({error.strerror}): it stands whole at "
                f"{staged}, move it from there"
            ) from error
        self._clear()

    def _clear_if_placed(self) -> None:
        """Remove what a build left that placed its bundle and was killed then; no other build's."""
        with contextlib.suppress(OSError):
            self.path.rmdir()  # killed as the last file was gone
        if not (_is_ours(self.path) and (self.path / _MARKER).exists()):
            return
        with contextlib.suppress(OSError), _marker_in(self.path) as self._lock:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_held() and self._was_placed():
                self._clear()

    def _clear(self) -> None:
        """Remove what builds wrote, the marker last; a file that cannot be removed keeps it."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.name != _MARKER and _has_our_name(path):
                    _remove(path)
            (self.path / _MARKER).unlink()
            self.path.rmdir()

    def _check_output(self) -> None:
        _check_output(self.output, force=self._force)


def check_place(output: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse a place that no bundle can be written to; nothing is made there.

    Args:
        output: path of the bundle.
        force: replace a bundle that exists there.

    Raises:
        OutputError: something there must not be replaced, or nothing can be written there.
    """
    place, work = _places(output)
    try:
        _check_output(place, force=force)
        _refuse_foreign(work)
    except OutputError:
        with contextlib.suppress(OutputError):
            Workspace(output, force=force)  # refuses it, too, and clears what a killed build left
        raise
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write at {work}: {reason_of(error)}") from error
    parent = next(path for path in place.parents if os.path.lexists(path))
    if not parent.is_dir():
        raise OutputError(f"cannot write at {work}: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write at {work}: {parent} is not yours to write to")
    try:
        # /proc and the like have all rights set, and refuse all the same.
        tempfile.TemporaryDirectory(prefix=f".{work.name[:99]}-", dir=parent).cleanup()
    except OSError as error:
        raise OutputError(f"cannot write at {work}: {reason_of(error)}") from error


def pending_ledger(output: str | os.PathLike[str], search_key: str) -> Path:
    """Path of the ledger that a build to `output` would go on with; nothing is made or read.

    Args:
        output: the bundle's directory.
        search_key: digest of model, data and settings.
    """
    return _places(output)[1] / _ledger_name(search_key)


def _ledger_name(search_key: str) -> str:
    return f"ledger-{search_key[:16]}.jsonl"


def _places(output: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Path of a bundle, and of its build's working directory."""
    if not os.fspath(output):
        raise OutputError("the path of the output is empty: pass one as --output")
    place = Path(os.path.abspath(output))
    if not place.name:
        raise OutputError(f"{place} is no place for a bundle: pass another --output")
    return place, place.with_name(f"{place.name}.work")


def _refuse_foreign(work: Path) -> None:
    """Refuse a working directory that is not a build's."""
    if os.path.lexists(work) and not _is_ours(work):
        raise OutputError(
            f"{work} exists and is not a build's: move it away, or pass another --output"
        )


def _check_output(output: Path, *, force: bool) -> None:
    if bundle := bundle_around(output):
        raise OutputError(
            f"{output} is within the bundle {bundle}, whose files are listed in its manifest: pass "
            "another --output"
        )
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        raise OutputError(f"{output} is not a directory: pass another --output")
    if not force:
        raise OutputError(f"{output} exists: pass another --output, or --force to replace a bundle")
    foreign = _foreign_files(output)
    if foreign:
        raise OutputError(
            f"{output} holds what no build wrote ({foreign[0]}): move it away; --force "
            "replaces bundles only"
        )


def _marker_in(directory: Path) -> io.FileIO:
    """The marker of a working directory, open; both are made if they are missing.

    Raises:
        OSError: they cannot be made, or another build's end removed the directory again and again.
    """
    for _ in range(_TRIES):
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return (directory / _MARKER).open("a+b", buffering=0)
    raise FileNotFoundError(errno.ENOENT, "it is removed again and again", str(directory))


def _is_ours(directory: Path) -> bool:
    """Whether a build made this directory: it has the marker, or is what is left without one.

    Without a marker it is empty, or what earlier versions left where they were killed as they
    removed the files of a finished build: a ledger and what lies beside it, but no staged bundle.
    """
    if directory.is_symlink() or not directory.is_dir():
        return False
    found = list(directory.iterdir())
    if directory / _MARKER in found:
        return _is_as_written(directory / _MARKER)
    ledgers = [path for path in found if path.name.startswith("ledger-")]
    known = all(_is_as_written(path) and path.name != "bundle" for path in found)
    return not found or (bool(ledgers) and known)


def _has_our_name(path: Path) -> bool:
    return path.name in _DIRECTORIES or _FILES.fullmatch(path.name) is not None


def _is_as_written(path: Path) -> bool:
    """Whether an entry of a working directory has a name, and is of the kind, that builds make."""
    kind = stat.S_ISDIR if path.name in _DIRECTORIES else stat.S_ISREG
    return _has_our_name(path) and kind(path.lstat().st_mode)


def _remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _foreign_files(directory: Path) -> list[str]:
    """Files in a directory that its manifest does not list; all of them if it is no bundle."""
    try:
        listed = read_manifest(directory)["files"]
    except BundleError:
        return unlisted_files(directory)
    return unlisted_files(directory, {MANIFEST, SIGNATURE, *listed})
