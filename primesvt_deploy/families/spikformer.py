"""Network of Spikformer (Zhou et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.mlp import SpikingMLP
from primesvt_deploy.families.blocks.units import ConvBNNeuron, make_neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.stem_pooling import check_pooling

__all__ = ["Spikformer", "SpikformerConfig"]


@dataclass(frozen=True, kw_only=True)
class SpikformerConfig(NetworkConfig):
    """A Spikformer before pruning; see `NetworkConfig`.

    Args:
        num_heads: heads of every SSA.
        embed_dim: width D of the residual stream; the stem has D/8, D/4, D/2, D.
        depth: blocks.
        pooling: which of the four stem stages pool, `0011` or `1111` in the published models.
        pool_after_neuron: upstream's order in the stem; SpikingJelly's is the other.
        mlp_ratio: hidden width of the MLPs by embed_dim.
        attention_tau: of the neurons of SSA.
        attention_v_threshold: threshold of the neuron behind the attention product.
        attention_scale: factor on the attention product.
    """

    num_heads: int
    embed_dim: int
    depth: int
    pooling: str
    pool_after_neuron: bool = False
    mlp_ratio: float = 4.0
    attention_tau: float = 2.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        check_pooling(self.pooling)
        self.require_multiple(2 ** self.pooling.count("1"))
        self.require_heads(self.num_heads, self.embed_dim)


class SpikformerBlock(nn.Module):
    """SSA and MLP, each added to the stream: spikes add up to small integers."""

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__()
        self.attn: nn.Module = _attention(config)
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.mlp = SpikingMLP(config, config.embed_dim, hidden)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + SSA(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP, `x + MLP(x)`."""
        return x + cast(torch.Tensor, self.mlp(x))


def _attention(config: SpikformerConfig) -> SpikingSelfAttention:
    dim = config.embed_dim
    own = config.with_tau(config.attention_tau)

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(dim, dim, neuron=make_neuron(own))

    return SpikingSelfAttention(
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(own, v_threshold=config.attention_v_threshold),
        proj=unit(),
        num_heads=config.num_heads,
        scale=config.attention_scale,
    )


class Spikformer(SpikingNetwork):
    """Stem of four convolutions, positional encoding, blocks, head.

    A static image drives every timestep alike, so the first convolution is computed for one
    step and its neuron presents it T times.
    """

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__(config)
        dim = config.embed_dim
        widths = (config.in_channels, dim // 8, dim // 4, dim // 2, dim)
        where = "after" if config.pool_after_neuron else "before"
        self.stem = nn.ModuleList(
            ConvBNNeuron(
                widths[i],
                widths[i + 1],
                3,
                neuron=make_neuron(config, static_input=i == 0),
                pool=where if config.pooling[i] == "1" else None,
            )
            for i in range(4)
        )
        self.position = ConvBNNeuron(dim, dim, 3, neuron=make_neuron(config))
        self.blocks = nn.ModuleList(SpikformerBlock(config) for _ in range(config.depth))
        self.head = nn.Linear(dim, config.num_classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Last stem stage and positional encoding, `[T*N, C, H, W]` to `[T*N, D, H', W']`."""
        x = self.stem[3](x)
        return x + cast(torch.Tensor, self.position(x))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the mean over tokens and T."""
        return cast(torch.Tensor, self.head(self.over_time(x.mean(dim=(2, 3)))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem stages, then each half block, then the head."""
        chain = [Segment(f"stem.{i}", (f"stem.{i}",), self.stem[i]) for i in range(3)]
        chain.append(Segment("embed", ("stem.3", "position"), self.embed))
        for i, module in enumerate(self.blocks):
            block = cast(SpikformerBlock, module)
            chain.append(Segment(f"blocks.{i}.attn", (f"blocks.{i}.attn",), block.attend))
            chain.append(Segment(f"blocks.{i}.mlp", (f"blocks.{i}.mlp",), block.feed_forward))
        chain.append(Segment("head", ("head",), self.classify))
        return tuple(chain)
