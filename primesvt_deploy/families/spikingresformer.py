"""Network of SpikingResformer (Shi et al., CVPR 2024).

Forms: ImageNet (7x7 stem, pooled), CIFAR (3x3 stem) and DVS128 Gesture (likewise, PLIF neurons).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.attention import split_heads
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.blocks.units import (
    ConvBN,
    NeuronConvBN,
    Repeat,
    make_neuron,
    max_pool,
)
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole
from primesvt_deploy.families.network import Segment, SpikingNetwork

__all__ = ["SpikingResformer", "SpikingResformerConfig"]

_STEM_STRIDES = {3: 1, 7: 4}
"""Total stride of a stem, pooling included, by the size of its kernel."""


@dataclass(frozen=True, kw_only=True)
class SpikingResformerConfig(NetworkConfig):
    """A SpikingResformer before pruning; see `NetworkConfig`.

    Args:
        embed_dims: width of the residual stream, one a stage.
        depths: blocks, one a stage.
        num_heads: heads of every DSSA, one a stage.
        patch_sizes: kernel and stride p of the dual spike transformation, one a stage.
        stem_kernel: 7 (stride 2, then pooling) or 3 (stride 1).
        group_size: channels of each group of the GWFFNs' grouped convolutions.
        mlp_ratio: hidden width of the GWFFNs by embed_dims.
        parametric: PLIF neurons: each layer's tau is in the weights, `tau` is where it starts.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    stem_kernel: int = 7
    group_size: int = 64
    mlp_ratio: int = 4
    parametric: bool = False

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        stages = len(self.embed_dims)
        if {len(self.depths), len(self.num_heads), len(self.patch_sizes)} != {stages}:
            raise ModelError(
                "embed_dims, depths, num_heads and patch_sizes differ in length: expected one "
                "value a stage in each"
            )
        if self.stem_kernel not in _STEM_STRIDES:
            raise ModelError(f"stem_kernel is {self.stem_kernel}: expected 3 or 7")
        self.require_multiple(math.lcm(*map(self.token_stride, range(stages))))
        for heads, dim in zip(self.num_heads, self.embed_dims, strict=True):
            self.require_heads(heads, dim)
            if dim * self.mlp_ratio % self.group_size:
                raise ModelError(
                    f"groups of {self.group_size} channels do not divide the hidden width "
                    f"{dim * self.mlp_ratio}: expected another group_size"
                )

    def token_stride(self, stage: int) -> int:
        """Pixels of the image per token side, in the attention of a stage."""
        return int(_STEM_STRIDES[self.stem_kernel] * 2**stage * self.patch_sizes[stage])

    def tokens(self, stage: int) -> int:
        """Tokens L that the attention of a stage keeps."""
        return int(self.image_size // self.token_stride(stage)) ** 2


def _neuron(config: SpikingResformerConfig) -> Neuron:
    if not config.parametric:
        return make_neuron(config)
    # PLIF: each layer's tau is learnt (Fang et al., ICCV 2021).
    node = sj_neuron.ParametricLIFNode(
        init_tau=float(config.tau),
        decay_input=config.decay_input,
        v_threshold=config.v_threshold,
        v_reset=config.v_reset,
        detach_reset=True,
        step_mode="m",
    )
    return Neuron(config.neuron(), timesteps=config.timesteps, node=node)


class ScaledProduct(nn.Module):
    """`neuron(c * currents @ spikes)` head by head, with `c = 1 / sqrt(firing rate * length)`.

    Training measures the firing rate of the spikes, so that the product has unit variance;
    then c is a constant, and stays when heads shrink. Source: Shi et al., CVPR 2024.

    Args:
        config: configuration of the network.
        heads: number of heads.
        length: length L of the inner product before pruning.
    """

    firing_rate: torch.Tensor

    def __init__(self, config: SpikingResformerConfig, *, heads: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.gain = 1.0
        self.neuron = _neuron(config)
        self.register_buffer("firing_rate", torch.full((heads,), 0.25))

    def forward(self, currents: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """Spikes of the product of two operands.

        Args:
            currents: `[T*N, heads, M, L]`.
            spikes: `[T*N, heads, L, H*W]`.

        Returns:
            Spikes `[T*N, heads * M, H*W]`.
        """
        scale = self.gain / (self.firing_rate * self.length).sqrt()
        product = (currents * scale.unflatten(0, (-1, 1, 1))) @ spikes
        return cast(torch.Tensor, self.neuron(product.flatten(1, 2)))

    def absorb_gain(self, gain: float) -> None:
        """Multiply the input of the neuron behind the product by `gain`."""
        self.gain *= gain


class DualSpikeSelfAttention(nn.Module):
    """DSSA: `a = neuron(c1 * k^T x)`, `neuron(c2 * v a)` head by head, then projection.

    k and v are the halves of the dual spike transformation, a p x p convolution of stride p:
    each pixel of x attends to all tokens. Source: Shi et al., CVPR 2024.

    Args:
        config: configuration of the network.
        stage: index of the stage, whose widths it has.
    """

    def __init__(self, config: SpikingResformerConfig, stage: int) -> None:
        super().__init__()
        dim, heads = config.embed_dims[stage], config.num_heads[stage]
        patch = config.patch_sizes[stage]
        self.num_heads = heads
        self.patch_size = patch
        self.entry = _neuron(config)
        self.k = ConvBN(dim, dim, patch, stride=patch, padding=0)
        self.v = ConvBN(dim, dim, patch, stride=patch, padding=0)
        self.attn_map = ScaledProduct(config, heads=heads, length=dim // heads)
        self.readout = ScaledProduct(config, heads=heads, length=config.tokens(stage))
        self.proj = ConvBN(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, C, H, W]`."""
        x = self.entry(x)
        k, v, queries = (split_heads(y, self.num_heads) for y in (self.k(x), self.v(x), x))
        attention = self.attn_map(k.transpose(-2, -1), queries)
        spikes = self.readout(v, attention.unflatten(1, (self.num_heads, -1)))
        return cast(torch.Tensor, self.proj(spikes.unflatten(-1, x.shape[-2:])))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Channels of k are the stream's, cut into heads; those of v are inside the attention."""
        return {"k": ChannelRole(None, self.num_heads), "v": ChannelRole("v", self.num_heads)}

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledAttention(self), ("product",)


class _CoupledAttention(nn.Module):
    """Stand-in of DSSA: products share an index between k and x, and pass v's channels to proj."""

    def __init__(self, attention: DualSpikeSelfAttention) -> None:
        super().__init__()
        self.patch_size = attention.patch_size
        self.entry = attention.entry
        self.k, self.v, self.proj = attention.k, attention.v, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        self.product = self.k(x) * F.avg_pool2d(x, self.patch_size)
        return cast(torch.Tensor, self.proj(F.interpolate(self.v(x), size=x.shape[-2:])))


class GroupWiseFeedForward(nn.Module):
    """GWFFN: 1x1 up, grouped 3x3 with a residual of its own, 1x1 down."""

    def __init__(self, config: SpikingResformerConfig, stage: int) -> None:
        super().__init__()
        dim = config.embed_dims[stage]
        hidden = dim * config.mlp_ratio
        self.groups = hidden // config.group_size
        self.up = NeuronConvBN(dim, hidden, neuron=_neuron(config))
        self.grouped = NeuronConvBN(hidden, hidden, 3, groups=self.groups, neuron=_neuron(config))
        self.down = NeuronConvBN(hidden, dim, neuron=_neuron(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents of the same shape as `x`, `[T*N, C, H, W]`."""
        x = self.up(x)
        return cast(torch.Tensor, self.down(x + self.grouped(x)))

    def channel_roles(self) -> dict[str, ChannelRole]:
        """Hidden channels are inside the GWFFN, and every group keeps equally many of them."""
        return {"up": ChannelRole("", self.groups)}


class SpikingResformerBlock(nn.Module):
    """DSSA and GWFFN, each added to the stream, which holds membrane currents."""

    def __init__(self, config: SpikingResformerConfig, stage: int) -> None:
        super().__init__()
        self.attn = DualSpikeSelfAttention(config, stage)
        self.mlp = GroupWiseFeedForward(config, stage)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + DSSA(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the GWFFN, `x + GWFFN(x)`."""
        return x + cast(torch.Tensor, self.mlp(x))


class SpikingResformerStage(nn.Module):
    """Downsampling (in every stage but the first) and blocks of one width."""

    def __init__(self, config: SpikingResformerConfig, stage: int) -> None:
        super().__init__()
        if stage:
            before, after = config.embed_dims[stage - 1 : stage + 1]
            self.downsample = NeuronConvBN(before, after, 3, stride=2, neuron=_neuron(config))
        depth = config.depths[stage]
        self.blocks = nn.ModuleList(SpikingResformerBlock(config, stage) for _ in range(depth))

    def segments(self, name: str) -> list[Segment]:
        """Downsampling, then each half block; `name` is the stage's."""
        chain = []
        if hasattr(self, "downsample"):
            chain.append(Segment(f"{name}.downsample", (f"{name}.downsample",), self.downsample))
        for i, module in enumerate(self.blocks):
            block = cast(SpikingResformerBlock, module)
            attn, mlp = f"{name}.blocks.{i}.attn", f"{name}.blocks.{i}.mlp"
            chain.append(Segment(attn, (attn,), block.attend))
            chain.append(Segment(mlp, (mlp,), block.feed_forward))
        return chain


class SpikingResformer(SpikingNetwork):
    """Stem without a neuron, stages, head without a bias.

    The stem's currents are the same at every timestep for a static image, so they are computed
    for one step and repeated.
    """

    def __init__(self, config: SpikingResformerConfig) -> None:
        super().__init__(config)
        large = config.stem_kernel == 7
        self.stem = ConvBN(
            config.in_channels, config.embed_dims[0], config.stem_kernel, stride=2 if large else 1
        )
        self.pool = max_pool() if large else nn.Identity()
        self.repeat = Repeat(config)
        stages = range(len(config.embed_dims))
        self.stages = nn.ModuleList(SpikingResformerStage(config, stage) for stage in stages)
        self.head = nn.Linear(config.embed_dims[-1], config.num_classes, bias=False)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """First stream `[T*N, D, H', W']` of images `[N, C, H, W]` or frames `[T*N, C, H, W]`."""
        return cast(torch.Tensor, self.repeat(self.pool(self.stem(x))))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the mean over pixels and T."""
        return cast(torch.Tensor, self.head(self.over_time(x.mean(dim=(2, 3)))))

    def segments(self) -> tuple[Segment, ...]:
        """Stem, then each stage's downsampling and half blocks, then the head."""
        chain = [Segment("stem", ("stem",), self.embed)]
        for i, module in enumerate(self.stages):
            chain.extend(cast(SpikingResformerStage, module).segments(f"stages.{i}"))
        chain.append(Segment("head", ("head",), self.classify))
        return tuple(chain)
