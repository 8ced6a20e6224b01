"""Spikformer (Zhou et al., ICLR 2023): its network, and checkpoints of it.

Forms: upstream's ImageNet, CIFAR and CIFAR10-DVS code, and SpikingJelly 2.0's `Spikformer`,
whose stem pools before the neuron where upstream pools after it (equal at T = 1 only).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import Family, ModelOptions, State
from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.units import ConvBNNeuron, make_neuron
from primesvt_deploy.families.checkpoint_keys import (
    block_count,
    rename,
    split_parts,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import ChannelRole, Segment, SpikingNetwork

__all__ = ["SPIKFORMER", "Spikformer", "SpikformerConfig"]

_POOLING = {4: "0011", 16: "1111"}


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
        """Refuse what cannot be built."""
        super().__post_init__()
        check_pooling(self.pooling)
        self.require_multiple(2 ** self.pooling.count("1"))
        self.require_heads(self.num_heads, self.embed_dim)


def check_pooling(pooling: str) -> None:
    """Refuse a description of a stem's pooling that is not four binary digits.

    Raises:
        ModelError: it is not.
    """
    if len(pooling) != 4 or set(pooling) - {"0", "1"}:
        raise ModelError(
            f"pooling is {pooling!r}: expected four digits, 1 for each stem stage that pools, "
            "such as 1111 or 0011; pass --pooling or --patch-size"
        )


def chosen_pooling(options: ModelOptions, default: str | None = None) -> str:
    """Which stem stages pool: as said, or as the patch size says, or `default`.

    Raises:
        ModelError: nobody said it, or the patch size is neither 4 nor 16.
    """
    if options.pooling is not None:
        return options.pooling
    if options.patch_size is None and default is not None:
        return default
    patch_size = options.demand("patch_size")
    if patch_size not in _POOLING:
        raise ModelError(
            f"patch size {patch_size}: this stem has 4 or 16; pass --patch-size or --pooling"
        )
    return _POOLING[patch_size]


class SpikingMLP(nn.Module):
    """Two 1x1 convolutions, each with batch norm and neuron."""

    def __init__(self, config: NetworkConfig, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvBNNeuron(width, hidden, neuron=make_neuron(config))
        self.fc2 = ConvBNNeuron(hidden, width, neuron=make_neuron(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[T*N, width, H, W]` to the same shape."""
        return cast(torch.Tensor, self.fc2(self.fc1(x)))

    def channel_roles(self) -> dict[str, ChannelRole]:
        """The hidden channels are the MLP's own."""
        return {"fc1": ChannelRole("")}


class SpikformerBlock(nn.Module):
    """SSA and MLP, each added to the stream: spikes add up to small integers."""

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__()
        self.attn: nn.Module = _attention(config)
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.mlp = SpikingMLP(config, config.embed_dim, hidden)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """`x + SSA(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x + MLP(x)`."""
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
        """Stream `[T*N, D, H, W]` to logits `[N, K]`: head on the mean over tokens and T."""
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


_UPSTREAM_RULES = (
    (r"patch_embed\.proj_conv", "stem.0.conv"),
    (r"patch_embed\.proj_conv([123])", r"stem.\1.conv"),
    (r"patch_embed\.proj_bn", "stem.0.bn"),
    (r"patch_embed\.proj_bn([123])", r"stem.\1.bn"),
    (r"patch_embed\.rpe_(conv|bn)", r"position.\1"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_(?:conv|linear)", r"blocks.\1.attn.\2.conv"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_bn", r"blocks.\1.attn.\2.bn"),
    (r"block\.(\d+)\.mlp\.(fc[12])_(?:conv|linear)", r"blocks.\1.mlp.\2.conv"),
    (r"block\.(\d+)\.mlp\.(fc[12])_bn", r"blocks.\1.mlp.\2.bn"),
)
_UNUSED = (r"block\.\d+\.norm[12]", r"norm")
_SPIKINGJELLY_RULES = (
    (r"patch_embed\.stages\.(\d)\.conv_bn\.block\.0", r"stem.\1.conv"),
    (r"patch_embed\.stages\.(\d)\.conv_bn\.block\.1", r"stem.\1.bn"),
    (r"patch_embed\.positional_encoding\.conv_bn\.block\.0", "position.conv"),
    (r"patch_embed\.positional_encoding\.conv_bn\.block\.1", "position.bn"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)_conv_bn\.0", r"blocks.\1.attn.\2.conv"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)_conv_bn\.1", r"blocks.\1.attn.\2.bn"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.0", r"blocks.\1.mlp.\2.conv"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.1", r"blocks.\1.mlp.\2.bn"),
)


def _is_spikingjelly(keys: Set[str]) -> bool:
    return "patch_embed.positional_encoding.conv_bn.block.0.weight" in keys


def _is_upstream(keys: Set[str]) -> bool:
    # Spike-driven Transformers share the stem; their attention has `talking_heads`.
    return (
        {"patch_embed.proj_conv3.weight", "patch_embed.rpe_conv.weight"} <= keys
        and any(key.startswith("block.0.attn.") for key in keys)
        and not any(key.endswith(("talking_heads.weight", "mlp.fc1_conv.0.weight")) for key in keys)
    )


def _recognises(keys: Set[str]) -> bool:
    return "head.weight" in keys and (_is_spikingjelly(keys) or _is_upstream(keys))


def _convert(
    state: State, options: ModelOptions
) -> tuple[SpikformerConfig, dict[str, torch.Tensor]]:
    upstream = not _is_spikingjelly(state.keys())
    renamed = rename(state, _UPSTREAM_RULES if upstream else _SPIKINGJELLY_RULES, drop=_UNUSED)
    # A learned position embedding that CIFAR10-DVS models hold and never add.
    renamed.pop("pos_embed", None)
    ours = split_parts(square_kernels(renamed), "qkv", "qkv")
    in_channels = width_of(ours, "stem.0.conv", axis=1)
    config = SpikformerConfig(
        timesteps=options.demand("timesteps"),
        num_heads=options.demand("num_heads"),
        image_size=options.demand("image_size"),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        frames=options.takes_frames(in_channels),
        embed_dim=width_of(ours, "stem.3.conv"),
        depth=block_count(ours, r"blocks\.(\d+)\."),
        pooling=chosen_pooling(options, _told_pooling(state) if upstream else None),
        pool_after_neuron=upstream,
        tau=2.0 if options.tau is None else options.tau,
        v_threshold=1.0 if options.v_threshold is None else options.v_threshold,
        # SpikingJelly's constructor hands v_threshold on to attention, but not tau.
        attention_v_threshold=0.5
        if upstream or options.v_threshold is None
        else options.v_threshold,
        # Upstream's CIFAR10-DVS code alone has another, and Conv1d MLPs to be known by.
        attention_scale=0.25 if upstream and _is_dvs(state) else 0.125,
    )
    return config, ours


def _told_pooling(state: State) -> str:
    """Upstream's ImageNet and DVS code pools in all stages, its CIFAR code in the last two."""
    return "0011" if "block.0.attn.q_linear.weight" in state else "1111"


def _is_dvs(state: State) -> bool:
    weight = state.get("block.0.mlp.fc1_conv.weight")
    return weight is not None and weight.ndim == 3


SPIKFORMER = Family(
    name="spikformer",
    title="Spikformer (Zhou et al., ICLR 2023)",
    config_type=SpikformerConfig,
    network=Spikformer,
    recognises=_recognises,
    convert=_convert,
    flags="--timesteps --heads --image-size [--patch-size]",
)
