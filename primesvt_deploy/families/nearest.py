"""The family whose checkpoints are most like one that none recognises, and what differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

__all__ = ["LISTED", "difference_from", "is_like_none", "layers_of", "listed_forms", "nearest"]

LISTED = Path(__file__).with_name("upstream_layers.json")
"""Layers of each form of each family; `tools/list_upstream_layers.py` writes it."""
_LEAST_ALIKE = 0.2
"""Share of layers below which two networks have nothing to do with each other."""
_MOST_NAMED = 3


def layers_of(keys: Iterable[str]) -> list[str]:
    """Names of the layers of a state_dict in its order, numbers of blocks replaced by N."""
    names = (re.sub(r"(?<=\.)\d+(?=\.|$)", "N", key.rpartition(".")[0] or key) for key in keys)
    return list(dict.fromkeys(names))


def nearest(keys: Iterable[str]) -> str:
    """Clause that names the nearest family and what differs, or "" where none is near.

    Args:
        keys: of a state_dict.
    """
    layers = layers_of(keys)
    alike = {
        name: max(_alike(layers, form) for form in forms) for name, forms in listed_forms().items()
    }
    most = max(alike.values())
    if most < _LEAST_ALIKE:
        return ""
    names = [name for name in alike if alike[name] == most]
    return f"nearest is {' or '.join(names)}: {difference_from(names[0], keys)}"


def is_like_none(keys: Iterable[str]) -> bool:
    """Whether a state_dict has next to no layer of any family, also behind a prefix.

    Args:
        keys: of the state_dict, which may be of several models.
    """
    ends: set[str] = set()
    for layer in layers_of(keys):
        parts = layer.split(".")
        ends |= {".".join(parts[first:]) for first in range(len(parts))}
    forms = (form for each in listed_forms().values() for form in each)
    return all(len(ends.intersection(form)) < _LEAST_ALIKE * len(form) for form in forms)


def difference_from(family: str, keys: Iterable[str]) -> str:
    """Clause on layers of a family that a state_dict lacks, and on those that it has besides.

    Args:
        family: name of the family; of its forms the nearest counts.
        keys: of the state_dict.
    """
    layers = layers_of(keys)
    form = max(listed_forms().get(family, [[]]), key=lambda each: _alike(layers, each))
    missing = [layer for layer in form if layer not in set(layers)]
    besides = [layer for layer in layers if layer not in set(form)]
    parts: list[str] = []
    if missing:
        parts.append(f"{len(missing)} of its {len(form)} layers are missing{_some(missing)}")
    if besides:
        parts.append(f"{len(besides)} others are there{_some(besides)}")
    return " and ".join(parts) or "its layers are there, but not all their parameters"


def _alike(layers: Sequence[str], form: Sequence[str]) -> float:
    """Share of the layers of either that both have."""
    return len(set(layers) & set(form)) / len(set(layers) | set(form))


def _some(layers: Sequence[str]) -> str:
    return f" ({', '.join(layers[:_MOST_NAMED])}{', ...' if len(layers) > _MOST_NAMED else ''})"


@cache
def listed_forms() -> dict[str, list[list[str]]]:
    """Layers of each form of each family, by the family's name."""
    forms: dict[str, list[list[str]]] = json.loads(LISTED.read_text(encoding="utf-8"))
    return forms
