"""A plan: the channels of each group that stay; each head keeps equally many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.errors import PruningError, first_line
from primesvt_deploy.summary import shortened

__all__ = ["Plan", "kept_width"]


class _Content(msgspec.Struct):
    """The part of `plan.json` that makes a plan."""

    kept: dict[str, list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]]


@dataclass(frozen=True, repr=False)
class Plan:
    """Kept channel indices (ascending) of each pruned group; groups not named stay whole.

    Args:
        kept: group name and indices, sorted by name.
    """

    kept: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Keep one canonical order, so that equal plans compare and hash alike."""
        object.__setattr__(self, "kept", tuple(sorted(self.kept)))

    def __repr__(self) -> str:
        """How many channels stay, not which."""
        kept = [f"{name} {len(indices)}" for name, indices in self.kept]
        return f"Plan(channels kept: {shortened(kept, 6)})" if kept else "Plan(nothing is removed)"

    def __getitem__(self, name: str) -> tuple[int, ...] | None:
        """Kept indices of a group, or None where it stays whole."""
        return dict(self.kept).get(name)

    def replacing(self, group: str, indices: Iterable[int]) -> Plan:
        """This plan with another set of kept indices for one group."""
        return Plan(tuple((self.as_dict() | {group: tuple(sorted(indices))}).items()))

    def as_dict(self) -> dict[str, tuple[int, ...]]:
        """Kept indices by group name."""
        return dict(self.kept)

    def widths(self, groups: Iterable[Group]) -> dict[str, int]:
        """Channels each group has left."""
        kept = self.as_dict()
        return {g.name: len(kept[g.name]) if g.name in kept else g.width for g in groups}

    @property
    def digest(self) -> str:
        """A short hash that names the plan."""
        return hashlib.sha256(json.dumps(self.kept).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `plan.json`."""
        return {"kept": {name: list(indices) for name, indices in self.kept}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
            PruningError: the values are no plan's.
        """
        try:
            kept = msgspec.convert(values, _Content).kept
        except msgspec.ValidationError as error:
            raise PruningError(f"this is no content of a plan.json: {first_line(error)}") from error
        return cls(tuple((name, tuple(sorted(indices))) for name, indices in kept.items()))

    def packed(self, groups: Iterable[Group]) -> dict[str, str]:
        """Kept channels of each pruned group as hex of packed flags: short in a ledger."""
        widths = {group.name: group.width for group in groups}
        return {name: _packed(indices, widths[name]) for name, indices in self.kept}

    @classmethod
    def from_packed(cls, flags: Mapping[str, str]) -> Plan:
        """The inverse of `packed`."""
        return cls(tuple((name, _unpacked(text)) for name, text in flags.items()))

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse a plan that does not fit these groups.

        Raises:
            PruningError: an unknown group, an index out of range or twice, no channel left, or
                heads of unequal width.
        """
        by_name = {group.name: group for group in groups}
        for name, indices in self.kept:
            if name not in by_name:
                raise PruningError(
                    f"the plan names group {name!r}; the model has {sorted(by_name)}"
                )
            group = by_name[name]
            if not indices or len(set(indices)) != len(indices):
                raise PruningError(f"{name}: expected distinct channels, at least one, to keep")
            if indices[0] < 0 or indices[-1] >= group.width:
                raise PruningError(f"{name}: index out of 0..{group.width - 1}: not this model's")
            head_width = group.width // group.heads
            per_head = {sum(i // head_width == h for i in indices) for h in range(group.heads)}
            if len(per_head) > 1:
                raise PruningError(f"{name}: heads would keep unequal widths {sorted(per_head)}")


def _packed(indices: tuple[int, ...], width: int) -> str:
    flags = np.zeros(width, dtype=np.bool_)
    flags[list(indices)] = True
    return np.packbits(flags).tobytes().hex()


def _unpacked(text: str) -> tuple[int, ...]:
    flags = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    return tuple(int(i) for i in np.flatnonzero(flags))


def kept_width(group: Group, rate: float, *, multiple: int) -> int:
    """Channels that stay when `rate` of `group` leaves: rounded up to a multiple, never 0.

    Each head keeps equally many, a multiple of `multiple`; a width already smaller than that
    stays whole.
    """
    head_width = group.width // group.heads
    wanted = head_width - int(rate * head_width + 1e-9)
    rounded = -(-max(wanted, 1) // multiple) * multiple
    return min(rounded, head_width) * group.heads
