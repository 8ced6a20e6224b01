"""Manifests whose digests are right, for files that a test has put together or altered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime.bundle import Bundle, file_digest
from primesvt_deploy.edge.runtime.manifest import MANIFEST, SCHEMA, manifest_digest

LEAST: Mapping[str, Any] = {
    "schema": SCHEMA,
    "input": {},
    "output": {},
    "model": {"name": "tiny", "labels": list("abcde"), "preprocessing": {}},
    "constraints": {"met": True},
    "accuracy": {},
}
"""The least that a manifest holds, apart from files."""


def files_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Entries of a manifest for all other files in a directory."""
    return {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST and path.parent.name != "__pycache__"
    }


def seal(directory: Path, **changes: Any) -> Path:
    """Write a manifest that lists what is in a directory; others of its entries stay as they were.

    Args:
        directory: the bundle, which is returned.
        changes: entries to replace; `files`, too.
    """
    path = directory / MANIFEST
    before = json.loads(path.read_text()) if path.is_file() else LEAST
    manifest = {**before, "files": files_of(directory), **changes}
    manifest["manifest_sha256"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))
    return directory


def unchecked(directory: Path, **manifest: Any) -> Bundle:
    """A bundle of all files in a directory that holds no manifest, or one that is passed over."""
    return Bundle(directory, {**LEAST, "files": files_of(directory), **manifest})
