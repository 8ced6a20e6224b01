"""Read a bundle's manifest and check its files before anything in them is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import BundleError

__all__ = ["SCHEMA", "check_files", "file_digest", "manifest_digest", "read_manifest"]

SCHEMA = "primesvt-bundle/1"
_KEYS = ("files", "input", "output", "model", "constraints", "accuracy", "manifest_sha256")


def read_manifest(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a bundle's manifest and check its schema, keys and digest.

    Raises:
        BundleError: no bundle, another schema, or a manifest that was altered.
    """
    path = Path(bundle) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{bundle} is no bundle: it has no manifest.json") from error
    except NotADirectoryError as error:
        raise BundleError(f"{bundle} is a file: expected a bundle directory") from error
    except (ValueError, OSError) as error:
        raise BundleError(
            f"{path} is damaged: it is not complete JSON; copy the bundle again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise BundleError(
            f"{path} has schema {found!r}, expected {SCHEMA!r}: use the matching primesvt-deploy"
        )
    missing = [key for key in _KEYS if key not in manifest]
    if missing or manifest["manifest_sha256"] != manifest_digest(manifest):
        raise BundleError(f"{path} was altered or is incomplete: copy the bundle again")
    return manifest


def check_files(bundle: str | os.PathLike[str], manifest: Mapping[str, Any]) -> None:
    """Check size and SHA-256 of every file that the manifest lists.

    Raises:
        BundleError: a file is missing, of another size, or altered; all such files are named.
    """
    wrong: list[str] = []
    for name, expected in sorted(manifest["files"].items()):
        path = Path(bundle) / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != expected["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}")
        elif file_digest(path) != expected["sha256"]:
            wrong.append(f"{name} was altered (its SHA-256 differs)")
    if wrong:
        raise BundleError(f"{bundle}: {'; '.join(wrong)}; copy or build the bundle again")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical JSON without its own `manifest_sha256`."""
    body = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
