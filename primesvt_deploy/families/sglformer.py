"""Network of SGLFormer (Zhang et al., Frontiers in Neuroscience 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.mlp import SpikingMLP
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.stem_pooling import check_pooling

__all__ = ["SGLFormer", "SGLFormerConfig"]

_WINDOWS = 2
"""Rows, and columns, of windows of local attention."""
_LOCAL_RATIO = 4
_SCALE = 0.125


@dataclass(frozen=True, kw_only=True)
class SGLFormerConfig(NetworkConfig):
    """An SGLFormer before pruning; see `NetworkConfig`.

    Args:
        num_heads: heads of every attention.
        embed_dim: width D of the residual stream.
        stem_width: of the stem's first stage: D/8 (ImageNet), D/6 (CIFAR, event cameras); the
            others have D/4, D/2, D, D.
        depth: groups of a local block and the global blocks behind it.
        global_blocks: in each group: 2 (CIFAR, event cameras), or all of an ImageNet model's.
        pooling: which of the five stem stages pool: `00011` (CIFAR), `01111` (event cameras, and
            upstream's `ima2` models), `11110` (its `ima` models).
        mlp_ratio: hidden width of the MLPs by embed_dim.
        attention_v_threshold: threshold of the neuron behind the attention product.
        weighs_timesteps: the head reads a sum with weights for each token and timestep, not a mean
            (CIFAR, event cameras).
    """

    num_heads: int
    embed_dim: int
    stem_width: int
    depth: int
    global_blocks: int
    pooling: str
    mlp_ratio: float = 4.0
    attention_v_threshold: float = 0.5
    weighs_timesteps: bool = False

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        check_pooling(self.pooling, stages=5)
        self.require_multiple(_WINDOWS * 2 ** self.pooling.count("1"))
        self.require_heads(self.num_heads, self.embed_dim)

    @property
    def tokens(self) -> int:
        """Pixels of the residual stream."""
        side: int = self.image_size >> self.pooling.count("1")
        return side * side


class LocalAttention(SpikingSelfAttention):
    """SSA in windows: each has every second pixel of every second row.

    Source: Zhang et al. 2024, local attention; `Partition` of upstream's code takes strided pixels.
    """

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Operand `[T*N, windows * heads, C / heads, H*W / windows]` of `[T*N, C, H, W]`."""
        parts = x.unflatten(3, (-1, _WINDOWS)).unflatten(2, (-1, _WINDOWS))
        windows = parts.permute(0, 3, 5, 1, 2, 4).flatten(4)
        return cast(torch.Tensor, windows.unflatten(3, (self.num_heads, -1)).flatten(1, 3))

    def join(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The inverse of `split`; `size` is (H, W)."""
        windows = x.unflatten(1, (_WINDOWS, _WINDOWS, self.num_heads)).flatten(3, 4)
        parts = windows.unflatten(-1, (size[0] // _WINDOWS, size[1] // _WINDOWS))
        return cast(torch.Tensor, parts.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3))


def _attention(config: SGLFormerConfig, kind: type[SpikingSelfAttention]) -> SpikingSelfAttention:
    dim = config.embed_dim

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(dim, dim, neuron=make_neuron(config))

    return kind(
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config, v_threshold=config.attention_v_threshold),
        proj=unit(),
        num_heads=config.num_heads,
        scale=_SCALE,
    )


class LocalConvolution(nn.Module):
    """A depthwise convolution, then an inverted bottleneck around another, each with a shortcut."""

    def __init__(self, config: SGLFormerConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        hidden = _LOCAL_RATIO * dim
        self.depthwise = ConvBNNeuron(dim, dim, 3, groups=dim, neuron=make_neuron(config))
        self.expand = ConvBNNeuron(dim, hidden, neuron=make_neuron(config))
        self.inner = ConvBNNeuron(hidden, hidden, 3, groups=hidden, neuron=make_neuron(config))
        self.reduce = ConvBNNeuron(hidden, dim, neuron=make_neuron(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spike counts of the same shape as `x`, `[T*N, D, H, W]`."""
        x = x + cast(torch.Tensor, self.depthwise(x))
        return x + cast(torch.Tensor, self.reduce(self.inner(self.expand(x))))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only the bottleneck uses."""
        return {"expand": ChannelRole("")}


class SGLFormerBlock(nn.Module):
    """Attention and MLP, before them a convolution in local blocks, each added to the stream.

    The stream holds spike counts.

    Args:
        config: configuration of the network.
        local: whether attention is local, behind a convolution.
    """

    def __init__(self, config: SGLFormerConfig, *, local: bool) -> None:
        super().__init__()
        if local:
            self.conv = LocalConvolution(config)
        self.attn = _attention(config, LocalAttention if local else SpikingSelfAttention)
        hidden = round(config.embed_dim * config.mlp_ratio)
        self.mlp = SpikingMLP(config, config.embed_dim, hidden)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the convolution, `x + conv(x)`."""
        return x + cast(torch.Tensor, self.conv(x))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + attention(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP, `x + MLP(x)`."""
        return x + cast(torch.Tensor, self.mlp(x))

    def segments(self, name: str) -> list[Segment]:
        """Segments of the block, which is called `name` in the network."""
        parts = {"conv": self.convolve, "attn": self.attend, "mlp": self.feed_forward}
        names = [(f"{name}.{part}", run) for part, run in parts.items() if hasattr(self, part)]
        return [Segment(unit, (unit,), run) for unit, run in names]


class SGLFormerGroup(nn.Module):
    """A local block and the global blocks behind it."""

    def __init__(self, config: SGLFormerConfig) -> None:
        super().__init__()
        self.local = SGLFormerBlock(config, local=True)
        self.blocks = nn.ModuleList(
            SGLFormerBlock(config, local=False) for _ in range(config.global_blocks)
        )

    def segments(self, name: str) -> list[Segment]:
        """Segments of the group, which is called `name` in the network."""
        chain = self.local.segments(f"{name}.local")
        for i, block in enumerate(self.blocks):
            chain.extend(cast(SGLFormerBlock, block).segments(f"{name}.blocks.{i}"))
        return chain


class WeightedReadout(ConvBN):
    """A weighted sum over tokens and timesteps, channel by channel, and its batch norm.

    A depthwise convolution as large as its input, an image of tokens by timesteps: upstream's
    `full_size_conv`.
    """

    def __init__(self, config: SGLFormerConfig) -> None:
        dim = config.embed_dim
        super().__init__(dim, dim, groups=dim)
        self.timesteps = config.timesteps
        self.conv = nn.Conv2d(dim, dim, (config.tokens, config.timesteps), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sums `[N, D]` of the stream `[T*N, D, H, W]`."""
        steps = x.flatten(2).unflatten(0, (self.timesteps, -1))
        return self.currents(steps.permute(1, 2, 3, 0)).flatten(1)

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledReadout(self), ()


class _CoupledReadout(nn.Module):
    """Stand-in of the readout: the same convolution, of an input of one timestep."""

    def __init__(self, readout: WeightedReadout) -> None:
        super().__init__()
        self.conv, self.bn = readout.conv, readout.bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, *self.conv.kernel_size)
        return cast(torch.Tensor, self.bn(self.conv(whole))).mean(dim=(2, 3))


class SGLFormer(SpikingNetwork):
    """Stem of five convolutions, groups of local and global blocks, head.

    A static image drives every timestep alike, so the first convolution is computed for one
    step and its neuron presents it T times.
    """

    def __init__(self, config: SGLFormerConfig) -> None:
        super().__init__(config)
        dim = config.embed_dim
        widths = (config.in_channels, config.stem_width, dim // 4, dim // 2, dim, dim)
        self.stem = nn.ModuleList(
            ConvBNNeuron(
                widths[i],
                widths[i + 1],
                3,
                neuron=make_neuron(config, static_input=i == 0),
                pool="before" if config.pooling[i] == "1" else None,
            )
            for i in range(5)
        )
        self.groups = nn.ModuleList(SGLFormerGroup(config) for _ in range(config.depth))
        self.timesteps_in_weights = config.weighs_timesteps
        if config.weighs_timesteps:
            self.readout = WeightedReadout(config)
        self.head = nn.Linear(dim, config.num_classes)

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`."""
        if self.timesteps_in_weights:
            return cast(torch.Tensor, self.head(self.readout(x)))
        return cast(torch.Tensor, self.head(self.over_time(x.mean(dim=(2, 3)))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem stages, then the parts of each block, then the head."""
        chain = [Segment(f"stem.{i}", (f"stem.{i}",), stage) for i, stage in enumerate(self.stem)]
        for i, group in enumerate(self.groups):
            chain.extend(cast(SGLFormerGroup, group).segments(f"groups.{i}"))
        units = ("readout", "head") if self.timesteps_in_weights else ("head",)
        chain.append(Segment("head", units, self.classify))
        return tuple(chain)
