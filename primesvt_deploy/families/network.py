"""What every family's network tells of itself: its chain of segments, heads and couplings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from primesvt_deploy.families.config import NetworkConfig

__all__ = ["ChannelRole", "Coupled", "HasRoles", "Segment", "SpikingNetwork"]


@dataclass(frozen=True)
class Segment:
    """One link of a network seen as a chain: `run` maps the whole state to the next one.

    `units` are the names of the submodules that run inside; a mask on any of them changes the
    outputs of this segment and of those after it, never of those before.
    """

    name: str
    units: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]


class SpikingNetwork(nn.Module):
    """Images `[N, C, H, W]` or frames `[T, N, C, H, W]` to logits `[N, K]`, the mean over T.

    It is at rest before each call. Convolutions and their norms are `units.ConvBN`s.

    Attributes:
        classifiers: names of the layers whose outputs are logits: never pruned there.
        couplings_declared: whether its modules tell all that DepGraph cannot read; groups of
            other networks are tried before they are trusted.
        timesteps: T.
    """

    classifiers: tuple[str, ...] = ("head",)
    couplings_declared = True

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.timesteps = config.timesteps

    def segments(self) -> tuple[Segment, ...]:
        """The network as a chain, from a folded input to the logits."""
        raise NotImplementedError

    def fold(self, x: torch.Tensor) -> torch.Tensor:
        """The chain's first state: images as they are, frames as `[T*N, C, H, W]`."""
        return x.flatten(0, 1) if x.ndim == 5 else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]` or frames `[T, N, C, H, W]`."""
        x = self.fold(x)
        for segment in self.segments():
            x = segment.run(x)
        return x

    def over_time(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over timesteps, `[T*N, ...]` to `[N, ...]`."""
        mean: torch.Tensor = x.unflatten(0, (self.timesteps, -1)).mean(dim=0)
        return mean


@dataclass(frozen=True)
class ChannelRole:
    """What the output channels of a layer are, for the group in which they leave.

    Args:
        label: names the group, after the module that tells the role; "" names it like that
            module; None: the layer writes to a stream that other modules share.
        heads: channels leave in equal numbers from each of so many equal slices.
    """

    label: str | None
    heads: int = 1


@runtime_checkable
class HasRoles(Protocol):
    """A module that tells the roles of the units inside it."""

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of each unit, by its name within this module."""


@runtime_checkable
class Coupled(Protocol):
    """A module whose couplings DepGraph cannot read, such as an index shared in a product."""

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """A stand-in over the same units under the same names, and what it keeps.

        The stand-in expresses every coupling by elementwise operations. Tensors that do not
        reach its output, and must still be on the graph, are attributes with the names that
        come second, set by its forward pass. It is traced, never evaluated.
        """
