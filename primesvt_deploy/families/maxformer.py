"""Network of Max-Former (Fang et al., NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.mlp import MembraneMLP
from primesvt_deploy.families.blocks.units import (
    ConvBN,
    ConvBNNeuron,
    NeuronConvBN,
    make_neuron,
    max_pool,
)
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import Segment, SpikingNetwork

__all__ = ["MaxFormer", "MaxFormerConfig"]


@dataclass(frozen=True, kw_only=True)
class MaxFormerConfig(NetworkConfig):
    """A Max-Former before pruning; see `NetworkConfig`.

    Args:
        num_heads: heads of every SSA.
        embed_dim: width D of the last stage; the first two have D/4 and D/2.
        depths: blocks of each of the three stages.
        cifar: the CIFAR form: a stem that keeps the resolution, and Identity / DWC3 / SSA as
            token mixers in place of DWC7 / DWC5 / SSA.
        attention_on_spikes: SSA has a neuron in front of q, k and v and none behind the
            projection; otherwise it takes the stream's currents and adds spikes to it.
        mlp_ratio: hidden width of the MLPs by the stage's; 1 adds a shortcut around each layer.
        attention_v_threshold: threshold of the neuron behind the attention product.
        attention_scale: factor on the attention product.
    """

    num_heads: int
    embed_dim: int
    depths: tuple[int, ...]
    cifar: bool = False
    attention_on_spikes: bool = True
    mlp_ratio: float = 4.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        if len(self.depths) != 3:
            raise ModelError(f"depths are {list(self.depths)}: expected one of each of 3 stages")
        self.require_multiple(4 if self.cifar else 16)
        self.require_heads(self.num_heads, self.embed_dim)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Width of each stage's stream."""
        return self.embed_dim // 4, self.embed_dim // 2, self.embed_dim


class Stem(nn.Module):
    """First patch embedding: currents at a quarter of the resolution (CIFAR: at all of it).

    A static image drives every timestep alike, so the first convolution is computed for one
    step and its neuron presents it T times.
    """

    def __init__(self, config: MaxFormerConfig) -> None:
        super().__init__()
        width = config.widths[0]
        stride = 1 if config.cifar else 2
        first = make_neuron(config, static_input=True)
        self.conv1 = ConvBNNeuron(config.in_channels, width // 2, 3, stride=stride, neuron=first)
        self.conv2: nn.Module
        self.conv3: nn.Module
        if config.cifar:
            self.conv2, self.conv3 = ConvBN(width // 2, width, 3), nn.Identity()
        else:
            neuron = make_neuron(config)
            self.conv2 = ConvBNNeuron(width // 2, width, 3, stride=stride, neuron=neuron)
            self.conv3 = ConvBN(width, width, 3)
        self.shortcut = ConvBN(width // 2, width, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream `[T*N, D/4, H', W']` of images `[N, C, H, W]` or frames `[T*N, C, H, W]`."""
        x = self.conv1(x)
        return cast(torch.Tensor, self.conv3(self.conv2(x)) + self.shortcut(x))


class MaxEmbedding(nn.Module):
    """Patch embedding with an extra max pooling, between stages (the paper's Embed-Max).

    Args:
        config: configuration of the network.
        in_width: channels of the stream before.
        width: channels of the stream after.
    """

    def __init__(self, config: MaxFormerConfig, in_width: int, width: int) -> None:
        super().__init__()
        self.entry = make_neuron(config)
        self.conv1 = ConvBNNeuron(in_width, width, 3, neuron=make_neuron(config), pool="before")
        self.conv2 = ConvBN(width, width, 3)
        self.shortcut = ConvBN(in_width, width)
        self.shortcut_pool = max_pool()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The next stream, `[T*N, width, H/2, W/2]`, of the stream `[T*N, in_width, H, W]`."""
        x = self.entry(x)
        shortcut = self.shortcut_pool(self.shortcut(x))
        return cast(torch.Tensor, self.conv2(self.conv1(x)) + shortcut)


class MaxFormerBlock(nn.Module):
    """A token mixer and an MLP, each added to the stream.

    Args:
        config: configuration of the network.
        width: channels of the stream.
        mixer: name and module of the token mixer; None: the block has none.
    """

    def __init__(
        self, config: MaxFormerConfig, width: int, mixer: tuple[str, nn.Module] | None
    ) -> None:
        super().__init__()
        self.mixer_name = None if mixer is None else mixer[0]
        if mixer is not None:
            self.add_module(*mixer)
        self.mlp = MembraneMLP(config, width, round(width * config.mlp_ratio))

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the token mixer, `x + mixer(x)`."""
        return x + cast(torch.Tensor, getattr(self, cast(str, self.mixer_name))(x))

    def segments(self, name: str) -> list[Segment]:
        """Segments of the block, which is called `name` in the network."""
        mlp = Segment(f"{name}.mlp", (f"{name}.mlp",), self.mlp)
        if self.mixer_name is None:
            return [mlp]
        mixer = f"{name}.{self.mixer_name}"
        return [Segment(mixer, (mixer,), self.mix), mlp]


def _mixer(config: MaxFormerConfig, stage: int) -> tuple[str, nn.Module] | None:
    if stage == 2:
        return "attn", _attention(config)
    if stage == 0 and config.cifar:
        return None
    width = config.widths[stage]
    kernel_size = 3 if config.cifar else (7, 5)[stage]
    unit = NeuronConvBN(width, width, kernel_size, groups=width, neuron=make_neuron(config))
    return "dwconv", unit


def _attention(config: MaxFormerConfig) -> SpikingSelfAttention:
    dim, on_spikes = config.embed_dim, config.attention_on_spikes

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(dim, dim, neuron=make_neuron(config))

    return SpikingSelfAttention(
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config, v_threshold=config.attention_v_threshold),
        proj=ConvBN(dim, dim) if on_spikes else unit(),
        num_heads=config.num_heads,
        scale=config.attention_scale,
        entry=make_neuron(config) if on_spikes else None,
    )


class MaxFormer(SpikingNetwork):
    """Stem, three stages of blocks with a `MaxEmbedding` in between, neuron, head.

    The residual streams hold membrane currents.
    """

    def __init__(self, config: MaxFormerConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.stem = Stem(config)
        self.embeddings = nn.ModuleList(
            MaxEmbedding(config, widths[i], widths[i + 1]) for i in range(2)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                MaxFormerBlock(config, widths[i], _mixer(config, i))
                for _ in range(config.depths[i])
            )
            for i in range(3)
        )
        self.head_neuron = make_neuron(config)
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the spikes of the token mean."""
        return cast(torch.Tensor, self.head(self.over_time(self.head_neuron(x.mean(dim=(2, 3))))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem, then each half block, embeddings in between, then the head."""
        chain = [Segment("stem", ("stem",), self.stem)]
        for i, stage in enumerate(self.stages):
            if i > 0:
                name = f"embeddings.{i - 1}"
                chain.append(Segment(name, (name,), self.embeddings[i - 1]))
            for j, block in enumerate(cast(nn.ModuleList, stage)):
                chain.extend(cast(MaxFormerBlock, block).segments(f"stages.{i}.{j}"))
        chain.append(Segment("head", ("head",), self.classify))
        return tuple(chain)
