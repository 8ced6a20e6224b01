"""Network of Spike-driven Transformer V1 (Yao et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import join_heads, split_heads
from primesvt_deploy.families.blocks.mlp import MembraneMLP
from primesvt_deploy.families.blocks.units import (
    ConvBN,
    ConvBNNeuron,
    NeuronConvBN,
    make_neuron,
    max_pool,
    pooled,
)
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.stem_pooling import check_pooling

__all__ = [
    "PooledSpikeDrivenAttention",
    "SDTV1Config",
    "SpikeDrivenAttention",
    "SpikeDrivenTransformer",
]


@dataclass(frozen=True, kw_only=True)
class SDTV1Config(NetworkConfig):
    """A Spike-driven Transformer before pruning; see `NetworkConfig`.

    Args:
        embed_dim: width D of the residual stream; the stem has D/8, D/4, D/2, D.
        depth: blocks.
        pooling: which of the four stem stages pool: `1111` (ImageNet), `0011` (CIFAR,
            CIFAR10-DVS), `0111` (DVS128 Gesture).
        num_heads: heads of SDSA; only where `pooled_attention` do they change what it computes.
        mlp_ratio: hidden width of the MLPs by embed_dim; 1 adds a shortcut around each layer.
        attention_v_threshold: threshold of the neuron behind the sum over tokens.
        pooled_attention: SDSA pools k, v and its products, as upstream's CIFAR10-DVS code does.
    """

    embed_dim: int
    depth: int
    pooling: str
    num_heads: int = 1
    mlp_ratio: float = 4.0
    attention_v_threshold: float = 0.5
    pooled_attention: bool = False

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        check_pooling(self.pooling)
        self.require_multiple(2 ** self.pooling.count("1"))
        self.require_heads(self.num_heads, self.embed_dim)


class SpikeDrivenAttention(nn.Module):
    """SDSA: `q * neuron(sum over tokens of k * v)`, then projection.

    Every channel is by itself until the projection, so heads make no difference.
    """

    def __init__(self, config: SDTV1Config) -> None:
        super().__init__()
        dim = config.embed_dim
        self.entry = make_neuron(config)
        self.q, self.k, self.v = (
            ConvBNNeuron(dim, dim, neuron=make_neuron(config)) for _ in range(3)
        )
        self.neuron = make_neuron(config, v_threshold=config.attention_v_threshold)
        self.proj = ConvBN(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, D, H, W]`."""
        x = self.entry(x)
        q, k, v = self.q(x), self.k(x), self.v(x)
        context = self.neuron((k * v).sum(dim=(2, 3), keepdim=True))
        return cast(torch.Tensor, self.proj(q * context))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """One role for q, k and v, whose channels are pruned together."""
        return dict.fromkeys("qkv", ChannelRole("qkv"))


class PooledSpikeDrivenAttention(SpikeDrivenAttention):
    """SDSA of upstream's CIFAR10-DVS code: 3x3 stride-1 max pooling of k, v and the products.

    k and v are pooled over pixels, the products over tokens and neighbouring channels of a head:
    there no channel can leave by itself.

    Args:
        config: of the network.
        pools_q: q is pooled as k and v are, as STAtten's code does.
    """

    def __init__(self, config: SDTV1Config, *, pools_q: bool = False) -> None:
        super().__init__(config)
        self.num_heads = config.num_heads
        self.pools_q = pools_q

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, D, H, W]`."""
        x = self.entry(x)
        q = pooled(self.q(x)) if self.pools_q else self.q(x)
        k, v = pooled(self.k(x)), pooled(self.v(x))
        context = self.neuron(self._mixed(k * v).sum(dim=(2, 3), keepdim=True))
        return cast(torch.Tensor, self.proj(self._mixed(q * context)))

    def _mixed(self, x: torch.Tensor) -> torch.Tensor:
        """Max pooling over neighbours among tokens, and among channels of a head."""
        return join_heads(pooled(split_heads(x, self.num_heads)), x.shape[-2:])

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """One head for each channel: none can be pruned, as pooling mixes neighbouring channels."""
        return dict.fromkeys("qkv", ChannelRole("qkv", self.q.conv.out_channels))

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledAttention(self), ()


class _CoupledAttention(nn.Module):
    """Stand-in of pooled SDSA: pooling mixes channels but keeps their order."""

    def __init__(self, attention: SpikeDrivenAttention) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = attention.q, attention.k, attention.v, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.proj(self.q(x) * self.k(x) * self.v(x)))


class SDTV1Block(nn.Module):
    """Attention and MLP, each added to the stream."""

    def __init__(self, config: SDTV1Config, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention
        hidden = round(config.embed_dim * config.mlp_ratio)
        self.mlp = MembraneMLP(config, config.embed_dim, hidden)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + attention(x)`."""
        return x + cast(torch.Tensor, self.attn(x))


class SpikeDrivenTransformer(SpikingNetwork):
    """Stem of four convolutions, positional encoding, blocks, neuron, head.

    The residual stream holds membrane currents. A static image drives every timestep alike, so
    the first convolution is computed for one step and its neuron presents it T times.

    Args:
        config: the network's.
        attention: makes the attention of a block; None: SDSA.
    """

    def __init__(
        self, config: SDTV1Config, attention: Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__(config)
        kind = PooledSpikeDrivenAttention if config.pooled_attention else SpikeDrivenAttention
        attention = attention or (lambda: kind(config))
        dim = config.embed_dim
        widths = (config.in_channels, dim // 8, dim // 4, dim // 2, dim)
        stages: list[nn.Module] = [
            ConvBNNeuron(
                widths[i],
                widths[i + 1],
                3,
                neuron=make_neuron(config, static_input=i == 0),
                pool="after" if config.pooling[i] == "1" else None,
            )
            for i in range(3)
        ]
        self.stem = nn.ModuleList([*stages, ConvBN(widths[3], dim, 3)])
        self.last_pool = max_pool() if config.pooling[3] == "1" else nn.Identity()
        self.position = NeuronConvBN(dim, dim, 3, neuron=make_neuron(config))
        self.blocks = nn.ModuleList(SDTV1Block(config, attention()) for _ in range(config.depth))
        self.head_neuron = make_neuron(config)
        self.head = nn.Linear(dim, config.num_classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Last stem stage and positional encoding, `[T*N, C, H, W]` to `[T*N, D, H', W']`."""
        x = self.last_pool(self.stem[3](x))
        return x + cast(torch.Tensor, self.position(x))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the spikes of the token mean."""
        return cast(torch.Tensor, self.head(self.over_time(self.head_neuron(x.mean(dim=(2, 3))))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem stages, then each half block, then the head."""
        chain = [Segment(f"stem.{i}", (f"stem.{i}",), self.stem[i]) for i in range(3)]
        chain.append(Segment("embed", ("stem.3", "position"), self.embed))
        for i, module in enumerate(self.blocks):
            block = cast(SDTV1Block, module)
            chain.append(Segment(f"blocks.{i}.attn", (f"blocks.{i}.attn",), block.attend))
            chain.append(Segment(f"blocks.{i}.mlp", (f"blocks.{i}.mlp",), block.mlp))
        chain.append(Segment("head", ("head",), self.classify))
        return tuple(chain)
