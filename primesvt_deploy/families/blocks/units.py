"""The units SViTs are made of: a convolution with its norms, and a neuron before or after.

Tensors are time-folded, `[T*N, C, H, W]`; see `families.neuron`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.config import NetworkConfig

__all__ = ["ConvBN", "ConvBNNeuron", "NeuronConvBN", "Repeat", "make_neuron", "max_pool"]


def make_neuron(
    config: NetworkConfig,
    *,
    v_threshold: float | None = None,
    static_input: bool = False,
) -> Neuron:
    """The network's neuron, with another threshold where one is given."""
    return Neuron(
        config.neuron(v_threshold),
        timesteps=config.timesteps,
        # Frames differ from step to step; only an image is presented T times over.
        static_input=static_input and not config.frames,
    )


def max_pool() -> nn.MaxPool2d:
    """The pooling of every family: 3x3, stride 2, padding 1."""
    return nn.MaxPool2d(3, stride=2, padding=1)


class ConvBN(nn.Module):
    """A convolution and its batch norm, as one unit: they fold into one at export.

    `norm2` is a second batch norm and `scale` a factor for each channel (as a depthwise 1x1
    convolution), for the families that have them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = False,
        twice_normed: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2 if padding is None else padding,
            groups=groups,
            bias=bias,
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        if twice_normed:
            self.norm2: nn.Module = nn.BatchNorm2d(out_channels)
        if scaled:
            self.scale: nn.Module = nn.Conv2d(
                out_channels, out_channels, 1, groups=out_channels, bias=False
            )

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        """Convolution and norms, `[T*N, in, H, W]` to `[T*N, out, H', W']`."""
        x = self.bn(self.conv(x))
        for name in ("norm2", "scale"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `currents`."""
        return self.currents(x)


class ConvBNNeuron(ConvBN):
    """Convolution, batch norm, neuron: spikes out.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: pixels; padded so that the size stays.
        neuron: behind the norm.
        pool: where a 3x3 stride-2 max pooling stands: `before` or `after` the neuron, or None.
        options: of `ConvBN`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        neuron: nn.Module,
        pool: str | None = None,
        **options: bool | int,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)  # type: ignore[arg-type]
        self.pool = max_pool() if pool == "before" else nn.Identity()
        self.neuron = neuron
        self.pool_spikes = max_pool() if pool == "after" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, out_channels, H', W']` of `x` `[T*N, in_channels, H, W]`."""
        spikes = self.neuron(self.pool(self.currents(x)))
        return cast(torch.Tensor, self.pool_spikes(spikes))

    @torch.no_grad()
    def absorb_gain(self, gain: float) -> None:
        """Multiply what the neuron receives by `gain` > 0; the norms must be folded."""
        self.conv.weight.mul_(gain)
        if self.conv.bias is not None:
            self.conv.bias.mul_(gain)


class NeuronConvBN(ConvBN):
    """Neuron, convolution, batch norm: real currents out, as membrane-shortcut families have it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        neuron: nn.Module,
        **options: bool | int,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)  # type: ignore[arg-type]
        self.neuron = neuron

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents `[T*N, out_channels, H', W']` of `x` `[T*N, in_channels, H, W]`."""
        return self.currents(self.neuron(x))


class Repeat(nn.Module):
    """Presents a static state `[N, ...]` T times over, `[T*N, ...]`; frames pass as they are.

    For stems whose output is a real current, which a neuron with `static_input` cannot unfold.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.frames = config.frames
        self.timesteps = config.timesteps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, ...]` to `[T*N, ...]`."""
        return x if self.frames or self.timesteps == 1 else torch.cat([x] * self.timesteps)
