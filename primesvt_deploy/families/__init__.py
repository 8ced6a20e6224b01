"""SViT families: one module each, all answering the `Family` protocol."""

from __future__ import annotations

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import Family
from primesvt_deploy.families.spikformer import SPIKFORMER

__all__ = ["FAMILIES", "Family", "family_named", "recognise"]

FAMILIES: tuple[Family, ...] = (SPIKFORMER,)


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ModelError: no family has that name.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ModelError(f"unknown family {name!r}: expected one of {known}; pass --family")


def recognise(keys: set[str]) -> Family | None:
    """The family whose state_dict keys these look like, or None."""
    return next((family for family in FAMILIES if family.recognises(keys)), None)
