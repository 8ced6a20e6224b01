"""Classify images with this bundle; needs numpy, onnxruntime or a C compiler, and Pillow.

    python run.py IMAGE...

Every bundle has a copy of this file. It checks the code that it imports from `runtime/` against
the bundle's manifest first, and imports the bytes that it checked. Nothing else of this directory
is imported, so a `json.py` beside this file is not executed. All other files are checked by that
code. What it cannot check is itself: `primesvt-deploy run BUNDLE --trust KEY` does.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this directory

import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "runtime"
MOST_BYTES = 64 * 2**20


class Refused(Exception):
    """This bundle cannot be used; the message is one line."""


def main() -> int:
    """Check the code of this bundle, import it, and have it do the rest; the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  # a device's may be any
        print("error: this needs Python 3.11 or newer", file=sys.stderr)
        return 2
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    try:
        manifest = read_manifest()
        sys.meta_path.insert(0, CheckedCode(checked_sources(manifest["files"])))
    except Refused as error:
        print(f"error: {error}; copy the bundle again", file=sys.stderr)
        return 2
    try:
        code = importlib.import_module(f"{PACKAGE}.main").main(HERE)
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        packages = "numpy onnxruntime" if "session.json" in manifest["files"] else "numpy"
        print(f"error: numpy is not installed: pip install {packages} pillow", file=sys.stderr)
        return 2
    return int(code)


def read_manifest() -> dict[str, Any]:
    """The manifest, of which `files` alone is checked here."""
    try:
        manifest = json.loads(content_of("manifest.json"))
        files = manifest["files"]
        right = isinstance(files, dict) and all(
            isinstance(entry["sha256"], str) for entry in files.values()
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        right = False
    if not right:
        raise Refused(f"{shown(os.path.join(HERE, 'manifest.json'))} is damaged")
    found: dict[str, Any] = manifest
    return found


def checked_sources(files: Mapping[str, Any]) -> dict[str, bytes]:
    """Sources of `runtime/`, by file name, all of which the manifest lists as they are."""
    folder = os.path.join(HERE, PACKAGE)
    try:
        there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as error:
        raise Refused(f"{shown(folder)} cannot be read ({error.strerror})") from error
    listed = [name for name in files if name.startswith(f"{PACKAGE}/")]
    unlisted = [n for n in there if n != "__pycache__" and f"{PACKAGE}/{n}" not in listed]
    if unlisted:
        raise Refused(f"{shown(os.path.join(folder, unlisted[0]))} is not listed in its manifest")
    sources = {}
    for name in listed:
        if not re.fullmatch(rf"{PACKAGE}/\w+\.py", name):  # it would lead elsewhere
            raise Refused(f"{shown(os.path.join(HERE, 'manifest.json'))} is damaged")
        source = content_of(name)
        if hashlib.sha256(source).hexdigest() != files[name]["sha256"]:
            raise Refused(f"{shown(os.path.join(HERE, name))} was altered (its SHA-256 differs)")
        sources[name[len(PACKAGE) + 1 :]] = source
    missing = [name for name in ("__init__.py", "main.py") if name not in sources]
    if missing:
        raise Refused(f"{shown(os.path.join(folder, missing[0]))} is missing")
    return sources


def content_of(name: str) -> bytes:
    """Content of a file of this bundle, which must be a regular one."""
    path = os.path.join(HERE, name)
    try:
        if not os.path.isfile(path):  # nor opened: a pipe would wait
            raise Refused(f"{shown(path)} is missing")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(MOST_BYTES) or b""  # None of a device that looks like a file
    except OSError as error:
        raise Refused(f"{shown(path)} cannot be read ({error.strerror})") from error


def shown(path: str) -> str:
    """A path on one line, whatever characters are in it."""
    return path if path.isprintable() else ascii(path)[1:-1]


class CheckedCode(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `runtime` from sources that were checked, never from a file or compiled code.

    Args:
        sources: by file name.
    """

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self.sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a module of `runtime`; None of others."""
        package, _, name = fullname.partition(".")
        file = f"{name or '__init__'}.py"
        if package != PACKAGE or file not in self.sources:
            return None
        folder = os.path.join(HERE, PACKAGE)
        return importlib.util.spec_from_file_location(
            fullname,
            os.path.join(folder, file),
            loader=self,
            submodule_search_locations=None if name else [],
        )

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module's checked source."""
        origin = str(module.__file__)
        code = compile(self.sources[os.path.basename(origin)], origin, "exec", dont_inherit=True)
        exec(code, module.__dict__)


if __name__ == "__main__":
    sys.exit(main())
