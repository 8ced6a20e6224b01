"""Values that the shell offers for options; nothing heavy is imported to find them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from primesvt_deploy.errors import DeployError

__all__ = [
    "FAMILY_NAMES",
    "Completer",
    "complete_bundles",
    "complete_models",
    "complete_names",
    "complete_names_with_commas",
]

Completer = Callable[[click.Context, click.Parameter, str], list[Any]]

FAMILY_NAMES = (
    "spikformer",
    "spikingformer",
    "spikingformer-cml",
    "qkformer",
    "spikingresformer",
    "sdt-v1",
    "statten",
    "maxformer",
    "sdt-v2",
    "sdt-v3",
    "sdt-v3-large",
    "sglformer",
)
"""Names of `families.FAMILIES`, which imports torch; a test compares them."""

_MANIFEST = "manifest.json"
_MOST_ENTRIES = 1000
"""Entries of a directory that are looked at for bundles."""


def complete_names(*names: str) -> Completer:
    """Offer names of a list."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[Any]:
        return [name for name in names if name.startswith(typed)]

    return complete


def complete_names_with_commas(*names: str) -> Completer:
    """Offer names of a list, and after a comma those that were not yet typed."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[Any]:
        *before, last = typed.split(",")
        rest = [name for name in names if name not in before and name.startswith(last)]
        return [",".join((*before, name)) for name in rest]

    return complete


def complete_models(_: click.Context, __: click.Parameter, typed: str) -> list[Any]:
    """Offer the reference models; directories where none begins with what was typed."""
    from primesvt_deploy.model.reference_models import model_names

    try:
        found = [name for name in model_names() if name.startswith(typed)]
    except DeployError:  # an installation without them
        found = []
    return found or [CompletionItem(typed, type="dir")]


def complete_bundles(_: click.Context, __: click.Parameter, typed: str) -> list[Any]:
    """Offer bundles where the typed path leads and one level below; where none is, any path."""
    folder, _slash, _name = typed.rpartition("/")
    folder = typed[: len(folder) + 1] if _slash else ""
    try:
        found = sorted(_bundles(folder, typed))
    except OSError:
        found = []
    return list(found) or [CompletionItem(typed, type="file")]


def _bundles(folder: str, typed: str) -> list[str]:
    """Paths of bundles that begin with what was typed."""
    found = []
    for name in _directories(folder or "."):
        path = folder + name
        if not path.startswith(typed):
            continue
        if Path(path, _MANIFEST).is_file():
            found.append(path)
        else:
            below = (f"{path}/{name}" for name in _directories(path))
            found += [inner for inner in below if Path(inner, _MANIFEST).is_file()]
    return found


def _directories(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        some = [entry for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False)]
    return [entry.name for entry in some if entry.is_dir() and not entry.name.startswith(".")]
