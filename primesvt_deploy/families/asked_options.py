"""Options that a bare state_dict does not tell, by the names of its layers alone: without torch.

For a message before anything is loaded. It names what a checkpoint of these layers never tells, so
that it is never wrong; what depends on widths is found when the weights are read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from primesvt_deploy.families.nearest import layers_of, listed_forms

__all__ = ["ASKED", "asked_options"]

ASKED = Path(__file__).with_name("asked_options.json")
"""Options that each form of each family asks for; `tools/list_upstream_layers.py` writes it."""
_CLAIMED = {"statten": ("attention_mode", "chunk_size")}
"""Families that are others' by their layers, and the options by which they are chosen."""
_INSTEAD = {
    "num_heads": ("stage_heads",),
    "stage_heads": ("num_heads",),
    "patch_size": ("pooling",),
    "pooling": ("patch_size",),
    "chunk_size": ("attention_mode",),
}
"""Options beside which another may not be asked for."""


def asked_options(
    keys: Iterable[str], given: Collection[str], family: str | None = None
) -> tuple[str, ...]:
    """Names of the options to pass for a state_dict beside which nothing is stored.

    Args:
        keys: of the state_dict, without a wrapper's prefix.
        given: names of the options that the user gives.
        family: name of the family, if it is known.

    Returns:
        Fields of `ModelOptions`; empty as well where the layers are those of no listed form.
    """
    layers = set(layers_of(keys))
    found: list[list[str]] = []
    for name, forms in listed_forms().items():
        claimed = name in _CLAIMED and not any(option in given for option in _CLAIMED[name])
        if name != family and (family is not None or claimed):
            continue
        found += [
            asked for form, asked in zip(forms, _asked()[name], strict=True) if set(form) == layers
        ]
    if not found:
        return ()
    first, *others = found
    shared = [name for name in first if all(name in other for other in others)]
    return tuple(
        name
        for name in shared
        if name not in given and not any(other in given for other in _INSTEAD.get(name, ()))
    )


@cache
def _asked() -> dict[str, list[list[str]]]:
    asked: dict[str, list[list[str]]] = json.loads(ASKED.read_text(encoding="utf-8"))
    return asked
