"""Base class of every family's network: a chain of segments from images to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from primesvt_deploy.families.config import NetworkConfig

__all__ = ["Segment", "SpikingNetwork"]


@dataclass(frozen=True)
class Segment:
    """One link of a network seen as a chain.

    Args:
        name: unique within the network.
        units: names of the submodules that run inside; a mask on any of them changes the outputs
            of this segment and of those after it, never of those before.
        run: maps the whole state before the segment to the state after it.
    """

    name: str
    units: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]


class SpikingNetwork(nn.Module):
    """Base class of networks: images `[N, C, H, W]` or frames `[T, N, C, H, W]` to logits `[N, K]`.

    Logits are means over the T timesteps. Neurons are at rest before each call. Convolutions and
    their batch norms are `blocks.units.ConvBN`s.

    Attributes:
        classifiers: names of the layers whose outputs are logits: these are never pruned.
        couplings_declared: whether modules declare every coupling that DepGraph cannot trace
            (see `coupling`); groups of other networks are tried before they are trusted.
        timesteps: T.
        timesteps_in_weights: whether weights are of single timesteps, so that T is fixed.
    """

    classifiers: tuple[str, ...] = ("head",)
    couplings_declared = True
    timesteps_in_weights = False

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
