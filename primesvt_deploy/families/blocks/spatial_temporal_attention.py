"""Spatial-temporal attention: spiking self-attention over the tokens of several timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.units import pooled
from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["PooledSpatialTemporalAttention", "SpatialTemporalAttention"]


class SpatialTemporalAttention(SpikingSelfAttention):
    """STAtten: SSA over the tokens of a chunk of timesteps at once, chunk by chunk.

    The product is whole-numbered before it is scaled: `q_t (sum of k_s^T v_s over the chunk)`.
    Within a chunk a timestep sees those after it. Source: Lee et al., Spiking Transformer with
    Spatial-Temporal Attention, CVPR 2025, section 4.

    Args:
        timesteps: T, a multiple of `chunk_size`.
        chunk_size: timesteps of a chunk.
        parts: further arguments of `SpikingSelfAttention`.
    """

    def __init__(self, *, timesteps: int, chunk_size: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.timesteps = timesteps
        self.chunk_size = chunk_size

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`q (k^T v)` over chunks, of operands `[T*N, heads, C / heads, H*W]`."""
        if self.chunk_size == 1:
            return super().product(q, k, v)
        contexts = v @ k.transpose(-2, -1)
        chunks = (self.timesteps // self.chunk_size, self.chunk_size, -1)
        of_chunk = contexts.unflatten(0, chunks).sum(dim=1)
        shared = torch.stack([of_chunk] * self.chunk_size, dim=1).flatten(0, 2)
        return shared @ q


class PooledSpatialTemporalAttention(SpatialTemporalAttention):
    """STAtten as upstream has it for event cameras: `proj(s * p + p)`.

    p are the entry neuron's spikes after 3x3 stride-1 max pooling, s those behind the product of
    q, k and v, which are pooled likewise. So the channels of v are those of the stream.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, C, H, W]`."""
        x = self.entry(x)
        gate = pooled(x)
        spikes = self.attend(pooled(self.q(x)), pooled(self.k(x)), pooled(self.v(x)))
        return cast(torch.Tensor, self.proj(spikes * gate + gate))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Group of q with k; channels of v are the stream's, cut into heads."""
        return {**super().channel_roles(), "v": ChannelRole(None, self.num_heads)}

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledAttention(self), ("product",)


class _CoupledAttention(nn.Module):
    """Stand-in of pooled STAtten: q and k share an index, and so do v, the stream and proj."""

    def __init__(self, attention: SpikingSelfAttention) -> None:
        super().__init__()
        self.entry = attention.entry
        self.q, self.k, self.v, self.proj = attention.q, attention.k, attention.v, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        self.product = self.q(x) * self.k(x)
        return cast(torch.Tensor, self.proj(self.v(x) * x))
