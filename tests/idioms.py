"""One small Spikformer, its attention written in each of the ways that public code is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from small_models import enliven
from spikingjelly.activation_based import neuron
from torch import nn

__all__ = ["DIM", "HEADS", "IDIOMS", "SCALE", "network_in"]

DIM, HEADS, HIDDEN, SCALE = 16, 2, 32, 0.125


def lif(**options: float) -> nn.Module:
    return neuron.LIFNode(step_mode="m", detach_reset=True, **options)


class Unit(nn.Module):
    """Convolution, norm and neuron over `[T, B, C, H, W]`; its width is an attribute."""

    def __init__(self, inputs: int, outputs: int, kernel: int, pool: bool = False) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn, self.lif = nn.BatchNorm2d(outputs), lif()
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, batch, _, _, _ = x.shape
        x = self.pool(self.bn(self.conv(x.flatten(0, 1))))
        height, width = x.shape[-2:]
        spikes: torch.Tensor = self.lif(x.reshape(steps, batch, self.outputs, height, width))
        return spikes


class Projection(nn.Module):
    """Linear layer, norm and neuron over tokens `[T, B, N, C]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bn, self.lif = nn.BatchNorm1d(outputs), lif()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, _ = x.shape
        x = self.linear(x.flatten(0, 1))
        x = self.bn(x.transpose(-1, -2)).transpose(-1, -2)
        spikes: torch.Tensor = self.lif(x.reshape(steps, batch, tokens, x.shape[-1]).contiguous())
        return spikes


class Attention(nn.Module):
    """SSA over tokens `[T, B, N, C]`; `heads_of` and `joined` are what the idioms write."""

    fused = False

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.heads, self.head_dim = DIM, HEADS, DIM // HEADS
        if self.fused:
            self.qkv = Projection(DIM, 3 * DIM)
        else:
            self.q, self.k, self.v = (Projection(DIM, DIM) for _ in range(3))
        self.lif, self.proj = lif(v_threshold=0.5), Projection(DIM, DIM)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v as `[T, B, heads, N, C / heads]`."""
        q, k, v = (self.heads_of(unit(x), x) for unit in (self.q, self.k, self.v))
        return q, k, v

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, _ = x.shape
        spikes = spikes.reshape(steps, batch, tokens, self.heads, self.head_dim)
        return spikes.permute(0, 1, 3, 2, 4).contiguous()

    def joined(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, _ = x.shape
        return attended.transpose(2, 3).reshape(steps, batch, tokens, self.dim)

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1)) @ v * SCALE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended = self.lif(self.joined(self.product(*self.split(x)), x))
        result: torch.Tensor = self.proj(attended)
        return result


class FromTheInput(Attention):
    """Widths are those of the attention's input."""

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, dim = x.shape
        spikes = spikes.reshape(steps, batch, tokens, self.heads, dim // self.heads)
        return spikes.permute(0, 1, 3, 2, 4)

    def joined(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return attended.transpose(2, 3).reshape(x.shape)


class ScaledByWidth(FromTheInput):
    """The scale is computed of the width, which must not change with it."""

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # (8 ** -0.5) ** 2 = 0.125
        return q @ (k.transpose(-2, -1) @ v) * float(q.shape[-1] ** -0.5) ** 2


class Rearranged(Attention):
    """`einops`, with the heads and the width of a head written out."""

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return rearrange(spikes, "t b n (h d) -> t b h n d", h=HEADS, d=DIM // HEADS)

    def joined(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return rearrange(attended, "t b h n d -> t b n (h d)", d=DIM // HEADS)


class Interleaved(Attention):
    """Channels of the heads take turns: `(d h)`."""

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return rearrange(spikes, "t b n (d h) -> t b h n d", d=DIM // HEADS)

    def joined(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return rearrange(attended, "t b h n d -> t b n (d h)", h=HEADS)


class PermuteChain(Attention):
    """Axes go back and forth, with time and batch folded."""

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, dim = spikes.shape
        spikes = spikes.flatten(0, 1).transpose(1, 2).contiguous().view(-1, DIM, tokens)
        spikes = spikes.permute(2, 0, 1).reshape(tokens, steps * batch, self.heads, -1)
        spikes = spikes.transpose(0, 2).contiguous()
        spikes = spikes.view(self.heads, steps, batch, tokens, dim // self.heads)
        return spikes.movedim(0, 2)

    def joined(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        steps, batch, tokens, dim = x.shape
        attended = attended.transpose(-1, -2).flatten(2, 3).reshape(steps, batch, dim, tokens)
        return attended.permute(0, 1, 3, 2)


class Einsum(FromTheInput):
    """Products as `einsum`."""

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = torch.einsum("tbhnd,tbhmd->tbhnm", q, k)
        return torch.einsum("tbhnm,tbhmd->tbhnd", weights, v) * SCALE


class Looping(Attention):
    """Heads one by one, and time step by time step."""

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        steps = []
        for t in range(q.shape[0]):
            heads = [q[t][:, h] @ k[t][:, h].mT @ v[t][:, h] for h in range(self.heads)]
            steps.append(torch.stack(heads, dim=1) * SCALE)
        return torch.stack(steps)


class Chunked(Attention):
    """Fused q, k and v, taken apart by `chunk`."""

    fused = True

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = (self.heads_of(part, x) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v


class Split(Chunked):
    """Taken apart by `split` at the width."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = (self.heads_of(part, x) for part in self.qkv(x).split(self.dim, dim=-1))
        return q, k, v


class Sliced(Chunked):
    """Taken apart by slices."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        qkv, dim = self.qkv(x), x.shape[-1]
        parts = (qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., -dim:])
        q, k, v = (self.heads_of(part, x) for part in parts)
        return q, k, v


class Indexed(Chunked):
    """Taken apart by an axis of its own, as timm does."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        steps, batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(steps, batch, tokens, 3, self.heads, dim // self.heads)
        qkv = qkv.permute(3, 0, 1, 4, 2, 5)
        return qkv[0], qkv[1], qkv[2]


class HeadsFirst(Chunked):
    """q, k and v of a head lie beside each other: `(heads, 3, width)`."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = rearrange(self.qkv(x), "t b n (h c d) -> c t b h n d", h=HEADS, c=3)
        return q, k, v


class ChannelsFirst(Chunked):
    """q, k and v of a channel lie beside each other: `(heads, width, 3)`."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = rearrange(self.qkv(x), "t b n (h d c) -> c t b h n d", h=HEADS, c=3)
        return q, k, v


class ScaledProducts(FromTheInput):
    """Torch's own attention, whose scale is that of the width; with five axes."""

    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query=q, key=k, value=v)


class Keywords(Attention):
    """Arguments by their names."""

    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:3], self.heads, self.head_dim)
        return torch.reshape(input=spikes, shape=shape).permute(dims=(0, 1, 3, 2, 4))


class Network(nn.Module):
    """Stem, positional encoding, one block and a classifier."""

    T = 2

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        widths = (3, DIM // 8, DIM // 4, DIM // 2, DIM)
        self.stem = nn.Sequential(*(Unit(widths[i], widths[i + 1], 3, i > 1) for i in range(4)))
        self.position = Unit(DIM, DIM, 3)
        self.attn = attention()
        self.fc1, self.fc2 = Projection(DIM, HIDDEN), Projection(HIDDEN, DIM)
        self.head = nn.Linear(DIM, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        x = (x + self.position(x)).flatten(3).transpose(2, 3)
        x = x + self.attn(x)
        x = x + self.fc2(self.fc1(x))
        logits: torch.Tensor = self.head(x.mean(2)).mean(0)
        return logits


IDIOMS: dict[str, type[Attention]] = {
    "attributes": Attention,
    "widths from the input": FromTheInput,
    "scale from the width": ScaledByWidth,
    "einops": Rearranged,
    "heads interleaved": Interleaved,
    "permute chain": PermuteChain,
    "einsum": Einsum,
    "loops": Looping,
    "qkv, chunk": Chunked,
    "qkv, split": Split,
    "qkv, slices": Sliced,
    "qkv, index": Indexed,
    "qkv, heads first": HeadsFirst,
    "qkv, channels first": ChannelsFirst,
    "keywords": Keywords,
    "scaled products": ScaledProducts,
}


def network_in(idiom: str) -> nn.Module:
    """The network with live weights."""
    return enliven(Network(IDIOMS[idiom]))
