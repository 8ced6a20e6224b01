"""Declarations by which a module names the channels that are pruned together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["ChannelRole", "Coupled", "HasRoles"]


@dataclass(frozen=True)
class ChannelRole:
    """Role of a layer's output channels: the name of their prunable group, and its heads.

    Args:
        label: names the group, after the module that declares the role; "" gives it that
            module's name; None: the layer writes to a residual stream that other modules share.
        heads: number of equal slices, each of which keeps equally many channels.
    """

    label: str | None
    heads: int = 1


@runtime_checkable
class HasRoles(Protocol):
    """A module that declares the roles of the layers inside it."""

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of each submodule's output channels, by its name within this module."""


@runtime_checkable
class Coupled(Protocol):
    """A module whose couplings DepGraph cannot trace, such as an index shared in a matrix product.

    See `coupling_proxy`, which replaces such modules by their stand-ins.
    """

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in over the same submodules under the same names, traced but never evaluated.

        The stand-in expresses every coupling by elementwise operations.

        Returns:
            The stand-in, and the names of its attributes that hold tensors, set by its forward
            pass, that do not reach its output and must still be on the traced graph.
        """
