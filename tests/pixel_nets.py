"""Users' own networks whose first convolution sees the image, of every geometry."""

from __future__ import annotations

from typing import Any

import torch
from small_models import enliven
from spikingjelly.activation_based import neuron
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.model.svit import SViT

__all__ = ["GEOMETRIES", "MEAN", "STD", "Small", "own", "pixels"]

GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "7x7, stride 2": {"kernel_size": 7, "stride": 2, "padding": 3},
    "dilated": {"kernel_size": (3, 5), "stride": (3, 1), "padding": 2, "dilation": (2, 1)},
    "windows beyond the border": {"kernel_size": 3, "stride": 2, "padding": 5},
    "patches": {"kernel_size": 4, "stride": 4, "bias": False},
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Small(nn.Module):
    """A user's own network: a convolution of the image, a neuron, a classifier."""

    T = 2

    def __init__(self, outputs: int = 6, **geometry: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, **geometry)
        self.lif = neuron.LIFNode(step_mode="m")
        self.head = nn.Linear(outputs, 5)

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.lif(torch.stack([self.currents(x)] * self.T))
        return self.head(spikes.mean(dim=(0, 3, 4)))  # type: ignore[no-any-return]


def own(make: type[Small] = Small, **geometry: Any) -> SViT:
    options = {"mean": MEAN, "std": STD, "timesteps": 2, "image_size": 16}
    return adopt(enliven(make(**geometry)), **options)  # type: ignore[arg-type]


def pixels(count: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
