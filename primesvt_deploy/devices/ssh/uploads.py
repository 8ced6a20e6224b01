"""The files that are copied to a host: this package's measuring side, and the bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import primesvt_deploy.edge
from primesvt_deploy.errors import RemoteError

__all__ = ["Upload", "bundle_uploads", "runner_uploads", "total_bytes"]

_RUNNER = ("__init__.py", "version.py", "edge/*.py", "edge/runtime/*.py", "edge/bench/*.py")
_ENGINE = ("edge/native/*.c", "edge/native/*.h", "edge/native/Makefile")


@dataclass(frozen=True)
class Upload:
    """A file to copy.

    Attributes:
        source: the file here.
        target: its path in the directory on the host.
        executable: whether it is a program.
    """

    source: Path
    target: str
    executable: bool = False

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.source.stat().st_size


def total_bytes(uploads: list[Upload]) -> int:
    """Size of all files together."""
    return sum(upload.bytes for upload in uploads)


def runner_uploads(*, native: bool = False) -> list[Upload]:
    """The files of this package that measure on a device.

    Args:
        native: with the sources of the native runtime, which is compiled there.
    """
    package = Path(primesvt_deploy.edge.__file__).parents[1]
    patterns = (*_RUNNER, *(_ENGINE if native else ()))
    found = sorted(path for pattern in patterns for path in package.glob(pattern))
    return [
        Upload(path, f"{package.name}/{path.relative_to(package).as_posix()}") for path in found
    ]


def bundle_uploads(bundle: Path, target: str) -> list[Upload]:
    """All files of a bundle, to stand under `target`; or a model file, to stand there.

    Raises:
        RemoteError: there is no such bundle here.
    """
    if bundle.is_file():
        return [Upload(bundle, target)]
    if not bundle.is_dir():
        raise RemoteError(f"{bundle}: there is no such bundle; check the path")
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    return [
        Upload(path, f"{target}/{path.relative_to(bundle).as_posix()}")
        for path in files
        if "__pycache__" not in path.parts
    ]
