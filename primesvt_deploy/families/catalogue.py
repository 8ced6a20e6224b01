"""Families of SViTs, found by name, or by a state_dict's keys and stored training arguments."""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.maxformer_checkpoint import MAXFORMER
from primesvt_deploy.families.qkformer_checkpoint import QKFORMER
from primesvt_deploy.families.sdt_v1_checkpoint import SDT_V1
from primesvt_deploy.families.sdt_v2_checkpoint import SDT_V2
from primesvt_deploy.families.sdt_v3_checkpoint import SDT_V3
from primesvt_deploy.families.sdt_v3_large_checkpoint import SDT_V3_LARGE
from primesvt_deploy.families.sglformer_checkpoint import SGLFORMER
from primesvt_deploy.families.spikformer_checkpoint import SPIKFORMER
from primesvt_deploy.families.spikingformer_checkpoint import SPIKINGFORMER, SPIKINGFORMER_CML
from primesvt_deploy.families.spikingresformer_checkpoint import SPIKINGRESFORMER
from primesvt_deploy.families.statten_checkpoint import STATTEN

__all__ = ["FAMILIES", "Family", "families_with", "family_named", "recognise"]

FAMILIES: tuple[Family, ...] = (
    SPIKFORMER,
    SPIKINGFORMER,
    SPIKINGFORMER_CML,
    QKFORMER,
    SPIKINGRESFORMER,
    SDT_V1,
    STATTEN,
    MAXFORMER,
    SDT_V2,
    SDT_V3,
    SDT_V3_LARGE,
    SGLFORMER,
)


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ModelError: no family has that name.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    names = ", ".join(family.name for family in FAMILIES)
    raise ModelError(f"unknown family {name!r}: expected one of {names}; pass --family")


def families_with(
    keys: Set[str], arguments: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Family, ...]:
    """The families whose checkpoints have keys like these: several where only a name tells.

    Args:
        keys: of the state_dict.
        arguments: stored arguments of the training script; they choose among families that have
            the same keys.
    """
    found = [family for family in FAMILIES if family.recognises(keys)]
    claiming = [family for family in found if family.claims(arguments)]
    return tuple(claiming or (family for family in found if not family.claimed_only))


def recognise(keys: Set[str], arguments: Mapping[str, Any] = MappingProxyType({})) -> Family | None:
    """The only family whose checkpoints have keys and arguments like these, or None."""
    found = families_with(keys, arguments)
    return found[0] if len(found) == 1 else None
