"""Networks of Spikingformer (Zhou et al., 2023) and Spikingformer-CML (Zhou et al., 2023).

Sources: Spikingformer, arXiv:2304.11954; ConvBN-MaxPooling-LIF downsampling (CML),
arXiv:2305.05954. Where the text leaves a choice, upstream's code decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.mlp import MembraneMLP
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.stem_pooling import check_pooling

__all__ = ["Spikingformer", "SpikingformerCML", "SpikingformerConfig"]


@dataclass(frozen=True, kw_only=True)
class SpikingformerConfig(NetworkConfig):
    """A Spikingformer, CML or not, before pruning; see `NetworkConfig`.

    Args:
        num_heads: heads of every SSA.
        embed_dim: width D of the residual stream; the stem has D/8, D/4, D/2, D, D.
        depth: blocks.
        pooling: between which of the stem's five convolutions the image is pooled, `0011` (CIFAR)
            or `1111` in the published models.
        mlp_ratio: hidden width of the MLPs by embed_dim.
        attention_v_threshold: threshold of the neuron behind the attention product.
        attention_scale: factor on the attention product.
    """

    num_heads: int
    embed_dim: int
    depth: int
    pooling: str
    mlp_ratio: float = 4.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        check_pooling(self.pooling)
        self.require_multiple(2 ** self.pooling.count("1"))
        self.require_heads(self.num_heads, self.embed_dim)


class SpikingformerBlock(nn.Module):
    """SSA and MLP, each with neurons before its convolutions, added to the stream."""

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.attn: nn.Module = _attention(config)
        hidden = round(dim * config.mlp_ratio)
        self.mlp = MembraneMLP(config, dim, hidden, inner_shortcut=False)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + SSA(x)`."""
        return x + cast(torch.Tensor, self.attn(x))


def _attention(config: SpikingformerConfig) -> SpikingSelfAttention:
    dim = config.embed_dim

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(dim, dim, neuron=make_neuron(config))

    return SpikingSelfAttention(
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config, v_threshold=config.attention_v_threshold),
        proj=ConvBN(dim, dim),
        num_heads=config.num_heads,
        scale=config.attention_scale,
        entry=make_neuron(config),
    )


class Spikingformer(SpikingNetwork):
    """Stem of five convolutions, blocks, head.

    The residual stream holds membrane currents, and so does the head's input. A static image
    drives every timestep alike, so the first convolution is computed for one step and its neuron
    presents it T times.

    Attributes:
        pool: place of the stem's max pooling, before or after the neuron.
    """

    pool = "after"

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__(config)
        dim = config.embed_dim
        widths = (config.in_channels, dim // 8, dim // 4, dim // 2, dim)
        stages: list[nn.Module] = [
            ConvBNNeuron(
                widths[i],
                widths[i + 1],
                3,
                neuron=make_neuron(config, static_input=i == 0),
                pool=self.pool if config.pooling[i] == "1" else None,
            )
            for i in range(4)
        ]
        self.stem = nn.ModuleList([*stages, ConvBN(dim, dim, 3)])
        self.blocks = nn.ModuleList(SpikingformerBlock(config) for _ in range(config.depth))
        self.head = nn.Linear(dim, config.num_classes)

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the mean over tokens and T."""
        return cast(torch.Tensor, self.head(self.over_time(x.mean(dim=(2, 3)))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem stages, then each half block, then the head."""
        chain = [Segment(f"stem.{i}", (f"stem.{i}",), stage) for i, stage in enumerate(self.stem)]
        for i, module in enumerate(self.blocks):
            block = cast(SpikingformerBlock, module)
            chain.append(Segment(f"blocks.{i}.attn", (f"blocks.{i}.attn",), block.attend))
            chain.append(Segment(f"blocks.{i}.mlp", (f"blocks.{i}.mlp",), block.mlp))
        chain.append(Segment("head", ("head",), self.classify))
        return tuple(chain)


class SpikingformerCML(Spikingformer):
    """Spikingformer whose stem pools currents, in front of the neurons (CML), not spikes."""

    pool = "before"
