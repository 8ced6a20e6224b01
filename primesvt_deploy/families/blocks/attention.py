"""Spiking self-attention, shared by the families that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["SpikingSelfAttention", "join_heads", "split_heads"]


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Cut channels into heads: `[T*N, C, H, W]` to `[T*N, heads, C / heads, H*W]`."""
    split: torch.Tensor = x.flatten(2).unflatten(1, (heads, -1))
    return split


def join_heads(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The inverse of `split_heads`; `size` is (H, W)."""
    joined: torch.Tensor = x.flatten(1, 2).unflatten(-1, tuple(size))
    return joined


class SpikingSelfAttention(nn.Module):
    """SSA: `neuron(scale * q (k^T v))` head by head, then projection.

    Source: Zhou et al., Spikformer, ICLR 2023, section 3.2.

    Args:
        q: unit that maps `[T*N, C, H, W]` to spikes; its width is the number of heads times the
            length of the inner product.
        k: likewise, as wide as q.
        v: likewise, of any width that the heads divide.
        neuron: behind the product.
        proj: unit that maps v's width to C.
        num_heads: heads.
        scale: factor on the product; stays what it was when heads shrink.
        entry: neuron in front of q, k and v (membrane-shortcut families).
    """

    def __init__(
        self,
        *,
        q: nn.Module,
        k: nn.Module,
        v: nn.Module,
        neuron: nn.Module,
        proj: nn.Module,
        num_heads: int,
        scale: float,
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.entry = nn.Identity() if entry is None else entry
        self.q, self.k, self.v = q, k, v
        self.neuron = neuron
        self.proj = proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, C, H, W]`."""
        x = self.entry(x)
        return cast(torch.Tensor, self.proj(self.attend(self.q(x), self.k(x), self.v(x))))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, C_v, H, W]` of the neuron behind the product of q, k and v."""
        product = self.product(*(self.split(x) for x in (q, k, v))) * self.scale
        return cast(torch.Tensor, self.neuron(self.join(product, q.shape[-2:])))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Operand of the product, `[T*N, heads, C / heads, H*W]`, of `[T*N, C, H, W]`."""
        return split_heads(x, self.num_heads)

    def join(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The inverse of `split`; `size` is (H, W)."""
        return join_heads(x, size)

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`q (k^T v)` of operands `[T*N, heads, C / heads, H*W]`, of the shape of v."""
        return (v @ k.transpose(-2, -1)) @ q

    def absorb_gain(self, gain: float) -> None:
        """Multiply the input of the neuron behind the attention product by `gain`."""
        self.scale *= gain

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Groups of q with k, and of v; every head keeps equally many channels of each."""
        qk = ChannelRole("qk", self.num_heads)
        return {"q": qk, "k": qk, "v": ChannelRole("v", self.num_heads)}

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledAttention(self), ("product",)


class _CoupledAttention(nn.Module):
    """Stand-in of SSA: products share an index between q and k, and pass v's channels to proj."""

    def __init__(self, attention: SpikingSelfAttention) -> None:
        super().__init__()
        self.entry = attention.entry
        self.q, self.k, self.v, self.proj = attention.q, attention.k, attention.v, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        self.product = self.q(x) * self.k(x)
        return cast(torch.Tensor, self.proj(self.v(x)))
