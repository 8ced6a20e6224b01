"""Units that networks are made of: a convolution with its norms, and a neuron before or after.

Tensors are time-folded, `[T*N, C, H, W]`; see `blocks.neuron`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.config import NetworkConfig

__all__ = [
    "ConvBN",
    "ConvBNNeuron",
    "NeuronConvBN",
    "Repeat",
    "make_neuron",
    "max_pool",
    "pooled",
]


def make_neuron(
    config: NetworkConfig,
    *,
    v_threshold: float | None = None,
    static_input: bool = False,
) -> Neuron:
    """A neuron of the network.

    Args:
        config: configuration of the network.
        v_threshold: firing threshold; None: the network's.
        static_input: whether the neuron presents a static image T times (see `Neuron`); no effect
            where the network takes frames.
    """
    return Neuron(
        config.neuron(v_threshold),
        timesteps=config.timesteps,
        # Frames differ from step to step; only an image is presented T times over.
        static_input=static_input and not config.frames,
    )


def max_pool() -> nn.MaxPool2d:
    """The pooling of every family: 3x3, stride 2, padding 1."""
    return nn.MaxPool2d(3, stride=2, padding=1)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Max pooling inside attention, of the same size: 3x3, stride 1, padding 1."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class ConvBN(nn.Module):
    """A convolution and its batch norm, as one unit: they fold into one layer at export.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: pixels.
        stride: pixels.
        groups: groups of the convolution.
        padding: pixels; None: so that the size stays at stride 1.
        bias: whether the convolution has a bias.
        twice_normed: whether a second batch norm, `norm2`, follows.
        scaled: whether each channel has a learnt factor, `scale` (a depthwise 1x1 convolution).
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
        """Currents `[T*N, out_channels, H', W']` of `x`, `[T*N, in_channels, H, W]`."""
        x = self.bn(self.conv(x))
        for name in ("norm2", "scale"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents `[T*N, out_channels, H', W']` of `x`, `[T*N, in_channels, H, W]`."""
        return self.currents(x)


class ConvBNNeuron(ConvBN):
    """Convolution, batch norm, neuron: spikes out.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: pixels.
        neuron: neuron behind the norm.
        pool: place of a 3x3 stride-2 max pooling: `before` or `after` the neuron, or None.
        options: further arguments of `ConvBN`.
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
        """Multiply the neuron's input by `gain` > 0; the norms must be folded."""
        self.conv.weight.mul_(gain)
        if self.conv.bias is not None:
            self.conv.bias.mul_(gain)


class NeuronConvBN(ConvBN):
    """Neuron, convolution, batch norm: currents out, as in families with membrane shortcuts.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: pixels.
        neuron: neuron in front of the convolution.
        options: further arguments of `ConvBN`.
    """

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

    For stems whose output is a current that blocks add to, where no neuron with `static_input`
    can present it.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.frames = config.frames
        self.timesteps = config.timesteps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Static state `[N, ...]` repeated to `[T*N, ...]`; frames `[T*N, ...]` as they are."""
        return x if self.frames or self.timesteps == 1 else torch.cat([x] * self.timesteps)
