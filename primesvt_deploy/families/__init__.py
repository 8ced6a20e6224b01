"""Families of SViTs, found by name, or by a state_dict's keys and stored training arguments.

What `catalogue.py` has is imported when it is first used: it needs torch, and the names and layers
of families do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from primesvt_deploy.families.catalogue import (
        FAMILIES,
        Family,
        families_with,
        family_named,
        recognise,
    )

__all__ = ["FAMILIES", "Family", "families_with", "family_named", "recognise"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.catalogue"), name)
