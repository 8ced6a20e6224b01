"""Pyramid of stages of residual blocks, which Spike-driven Transformers V2 and V3 share.

Each stage shrinks the image by a strided convolution and then adds to a stream of membrane
currents of its own (membrane shortcut): convolution blocks in the first three stages, transformer
blocks in the others. Source: Yao et al., ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.units import (
    ConvBN,
    ConvBNNeuron,
    NeuronConvBN,
    Repeat,
    make_neuron,
)
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole
from primesvt_deploy.families.network import Segment, SpikingNetwork

__all__ = [
    "CONV_DEPTHS",
    "ChannelMixer",
    "Pyramid",
    "PyramidConfig",
    "ResidualBlock",
]

CONV_DEPTHS = (1, 1, 2)
"""Blocks of each convolution stage, in every model."""
_STRIDES = (2, 2, 2, 2, 1)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(NetworkConfig):
    """A pyramid before pruning; see `NetworkConfig`.

    Args:
        num_heads: heads of every attention.
        widths: widths of the residual streams, stage by stage.
        depths: blocks, stage by stage.
        mlp_ratio: hidden width of MLPs and channel convolutions by the stream's.
        distilled: there is a second head, trained by a teacher; logits are the mean of both.
    """

    num_heads: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratio: float = 4.0
    distilled: bool = False

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        if not len(CONV_DEPTHS) < len(self.widths) == len(self.depths) <= len(_STRIDES):
            raise ModelError(
                f"widths are {self.widths} and depths {self.depths}: expected one of each for "
                f"every stage, {len(CONV_DEPTHS) + 1} or {len(_STRIDES)} stages"
            )
        self.require_multiple(16)
        for width in self.widths[len(CONV_DEPTHS) :]:
            self.require_heads(self.num_heads, width)


class ChannelMixer(nn.Module):
    """Neuron, convolution, neuron, convolution: an MLP of 1x1, a ChannelConv of 3x3 kernels.

    Args:
        config: configuration of the network.
        width: channels of the stream.
        kernel_size: kernel size of both convolutions.
        bias: whether both convolutions have biases.
        scaled: whether channels of the output have a learnt factor (layer scale).
    """

    def __init__(
        self,
        config: PyramidConfig,
        width: int,
        kernel_size: int = 1,
        *,
        bias: bool = True,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.entry = make_neuron(config)
        self.fc1 = ConvBNNeuron(width, hidden, kernel_size, bias=bias, neuron=make_neuron(config))
        self.fc2 = ConvBN(hidden, width, kernel_size, bias=bias, scaled=scaled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents of the same shape as `x`, `[T*N, width, H, W]`."""
        return cast(torch.Tensor, self.fc2(self.fc1(self.entry(x))))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only this module uses."""
        return {"fc1": ChannelRole("")}


class ResidualBlock(nn.Module):
    """Branches that add to the stream one after the other, `x + branch(x)`.

    Args:
        branches: modules by name, in order.
    """

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches = tuple(branches)
        for name, branch in branches.items():
            setattr(self, name, branch)

    def add(self, branch: str, x: torch.Tensor) -> torch.Tensor:
        """The stream after the branch called `branch`, `x + branch(x)`."""
        return x + cast(torch.Tensor, getattr(self, branch)(x))

    def segments(self, name: str) -> list[Segment]:
        """A segment for each branch; `name` is the block's in the network."""
        units = [f"{name}.{branch}" for branch in self.branches]
        return [
            Segment(unit, (unit,), partial(self.add, branch))
            for unit, branch in zip(units, self.branches, strict=True)
        ]


class _Stage(nn.Module):
    """A strided convolution, then blocks on a stream of that width."""

    def __init__(self, down: nn.Module, blocks: list[ResidualBlock]) -> None:
        super().__init__()
        self.down = down
        self.blocks = nn.ModuleList(blocks)


class Pyramid(SpikingNetwork):
    """Stages, then one or two heads on the spiking mean over tokens.

    The stream of a static image starts as a current: the first convolution is computed for one
    step and its output presented T times.

    Args:
        config: configuration of the network.
        conv_block: makes a convolution block for a stream of a given width.
        block: makes a transformer block for a stream of a given width.
        head_neuron: neuron between the mean over tokens and the heads.
    """

    def __init__(
        self,
        config: PyramidConfig,
        conv_block: Callable[[int], ResidualBlock],
        block: Callable[[int], ResidualBlock],
        head_neuron: nn.Module,
    ) -> None:
        super().__init__(config)
        self.repeat = Repeat(config)
        self.stages = nn.ModuleList()
        before = config.in_channels
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            down = _down(config, i, before, width)
            make = conv_block if i < len(CONV_DEPTHS) else block
            self.stages.append(_Stage(down, [make(width) for _ in range(depth)]))
            before = width
        self.head_neuron = head_neuron
        self.head = nn.Linear(before, config.num_classes)
        self.distilled = config.distilled
        if config.distilled:
            self.head_kd = nn.Linear(before, config.num_classes)
            self.classifiers = ("head", "head_kd")

    def present(self, x: torch.Tensor) -> torch.Tensor:
        """Currents `[T*N, C', H/2, W/2]` of the first convolution, for images or folded frames."""
        return cast(torch.Tensor, self.repeat(cast(_Stage, self.stages[0]).down(x)))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`."""
        spikes = self.over_time(self.head_neuron(x.mean(dim=(2, 3))))
        logits = cast(torch.Tensor, self.head(spikes))
        return (logits + self.head_kd(spikes)) / 2 if self.distilled else logits

    def segments(self) -> tuple[Segment, ...]:
        """Each stage's strided convolution and the branches of its blocks, then the heads."""
        chain: list[Segment] = []
        for i, module in enumerate(self.stages):
            stage, name = cast(_Stage, module), f"stages.{i}"
            down = self.present if i == 0 else stage.down
            chain.append(Segment(f"{name}.down", (f"{name}.down",), down))
            for j, block in enumerate(stage.blocks):
                chain.extend(cast(ResidualBlock, block).segments(f"{name}.blocks.{j}"))
        chain.append(Segment("head", self.classifiers, self.classify))
        return tuple(chain)


def _down(config: PyramidConfig, index: int, before: int, width: int) -> nn.Module:
    if index == 0:
        return ConvBN(before, width, 7, stride=2, bias=True)
    neuron = make_neuron(config)
    return NeuronConvBN(before, width, 3, stride=_STRIDES[index], bias=True, neuron=neuron)
