"""The one door to a bundle: its manifest and all its files are checked before any is used."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BundleError, on_one_line
from .files import open_regular
from .manifest import MANIFEST, read_manifest

__all__ = ["COMPILED", "SIGNATURE", "Bundle", "file_digest", "open_bundle", "unlisted_files"]

SIGNATURE = "bundle.sig"
"""Name of a signature of all other files, which a manifest cannot list."""

COMPILED = ("native/build", "native/mcu/build", "runtime/__pycache__")
"""Directories of what a compiler, or Python, made of a bundle's sources; nothing reads them."""

_SHOWN = 5
"""Most files that a message names."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest lists; see `open_bundle`.

    Args:
        path: its directory.
        manifest: content of its manifest.
    """

    path: Path
    manifest: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        """Whether it has a file of this name."""
        return name in self.manifest["files"]

    def file(self, name: str) -> Path:
        """Path of one of its files.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self:
            raise BundleError(f"{self.path} has no {name}: copy or build the bundle again")
        return self.path / name


def open_bundle(bundle: str | os.PathLike[str]) -> Bundle:
    """Open a bundle: read its manifest, and check that its files are those that it lists.

    A file is read once to check it and again as it is used: what alters it in between goes
    unnoticed. Digests find accidents; against intent, see the signature.

    Args:
        bundle: its directory.

    Raises:
        BundleError: no bundle; a file is missing, altered, or of another size; or there are files
            that the manifest does not list. All such files are named, up to a few.
    """
    if not os.fspath(bundle):  # pathlib takes it as the current directory
        raise BundleError("the path of the bundle is empty: expected a bundle directory")
    path = Path(bundle)
    manifest = read_manifest(path)
    listed = manifest["files"]
    wrong = [
        f"{name} {found}"
        for name, expected in sorted(listed.items())
        if (found := _difference(path / name, expected))
    ]
    unlisted = unlisted_files(path, {MANIFEST, SIGNATURE, *listed})
    wrong += [f"{name} is not listed in its manifest" for name in unlisted]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if wrong[_SHOWN:] else ""
        found = on_one_line("; ".join(wrong[:_SHOWN]))
        raise BundleError(f"{path}: {found}{more}; copy or build the bundle again")
    return Bundle(path, manifest)


def unlisted_files(directory: Path, listed: Collection[str] = ()) -> list[str]:
    """Names of files in a bundle's directory that are not in a list, sorted.

    Also of directories that hold none that is, with a slash behind. What was compiled of the
    bundle's sources is passed over: `run.py` never reads it.
    """
    parents = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    return sorted(name for name in _files_in(directory, parents) if name not in listed)


def _files_in(directory: Path, parents: Collection[str]) -> Iterator[str]:
    """Names of all but these directories; a link to a directory is not followed."""
    for folder, folders, names in os.walk(directory):
        where = Path(folder)
        links = [name for name in folders if (where / name).is_symlink()]
        within = where.relative_to(directory).as_posix()
        if within in COMPILED and "__pycache__" not in within:
            folders.clear()
            continue
        if within not in (".", *parents, *(p for c in COMPILED for p in _with_parents(c))):
            yield f"{within}/"
        for name in (*names, *links):
            if within not in COMPILED or not name.endswith(".pyc"):
                yield (where / name).relative_to(directory).as_posix()


def _with_parents(name: str) -> list[str]:
    return [name, *(parent.as_posix() for parent in PurePosixPath(name).parents)]


def _difference(path: Path, expected: Mapping[str, Any]) -> str:
    """How a file differs from what the manifest says of it; empty: it does not."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is no file"
        if found.st_size != expected["bytes"]:
            return f"has {found.st_size} bytes, expected {expected['bytes']}"
        if file_digest(path) != expected["sha256"]:
            return "was altered (its SHA-256 differs)"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
