"""Network of QKFormer (Zhou et al., NeurIPS 2024).

Forms: upstream's ImageNet, CIFAR and event camera code differ in stem, pooling and stages;
SpikingJelly 2.0's `QKFormer` is the ImageNet form with biases elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.mlp import SpikingMLP
from primesvt_deploy.families.blocks.units import ConvBNNeuron, make_neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole
from primesvt_deploy.families.network import Segment, SpikingNetwork

__all__ = ["FORMS", "QKFormer", "QKFormerConfig"]


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Layout of a published form: where the forms differ.

    Args:
        stages: number of stages; each doubles the width, and the last has SSA.
        stem: which convolutions of the first patch embedding pool, a digit each.
        stem_shares: the stage's width over that of each of them.
        stem_shared: how many of them run before the shortcut branches off.
        pooling: which of the two convolutions of later patch embeddings pool.
    """

    stages: int
    stem: str
    stem_shares: tuple[int, ...]
    stem_shared: int
    pooling: str


FORMS: Mapping[str, _Form] = {
    "imagenet": _Form(stages=3, stem="110", stem_shares=(2, 1, 1), stem_shared=1, pooling="10"),
    "cifar": _Form(stages=3, stem="00", stem_shares=(2, 1), stem_shared=1, pooling="01"),
    "dvs": _Form(stages=2, stem="0111", stem_shares=(8, 4, 2, 1), stem_shared=2, pooling="01"),
}
"""Layouts by name: `imagenet`, `cifar`, and `dvs` (CIFAR10-DVS and DVS128 Gesture)."""


@dataclass(frozen=True, kw_only=True)
class QKFormerConfig(NetworkConfig):
    """A QKFormer before pruning; see `NetworkConfig`.

    Args:
        form: `imagenet`, `cifar` or `dvs`.
        stage_heads: heads in each stage.
        embed_dim: width D of the last stage; every stage before has half of the next.
        depths: blocks in each stage.
        qk_attention: kind of the gate in the stages before the last: `token` (a sum of q over the
            channels of a head gates each token; all published weights) or `channel` (a sum over
            tokens gates each channel).
        mlp_ratio: hidden width of the MLPs by their stage's.
        attention_v_threshold: threshold of the neurons behind attention sums and products.
        attention_scale: factor on the product of SSA.
    """

    form: str
    stage_heads: tuple[int, ...]
    embed_dim: int
    depths: tuple[int, ...]
    qk_attention: str = "token"
    mlp_ratio: float = 4.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        if self.form not in FORMS:
            raise ModelError(f"form is {self.form!r}: expected one of {', '.join(FORMS)}")
        if self.qk_attention not in ("token", "channel"):
            raise ModelError(f"qk_attention is {self.qk_attention!r}: expected token or channel")
        form = FORMS[self.form]
        if len(self.stage_heads) != form.stages:
            raise ModelError(
                f"stage_heads are {self.stage_heads}: expected a number for each of "
                f"{form.stages} stages; pass --stage-heads"
            )
        if len(self.depths) != form.stages:
            raise ModelError(
                f"depths are {self.depths}: expected a number for each of {form.stages} stages"
            )
        share = 2 ** (form.stages - 1) * form.stem_shares[0]
        if self.embed_dim % share:
            raise ModelError(f"embed_dim is {self.embed_dim}: expected a multiple of {share}")
        self.require_multiple(2 ** (form.stem.count("1") + form.stages - 1))
        for heads, width in zip(self.stage_heads, self.widths, strict=True):
            self.require_heads(heads, width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage's residual stream."""
        return tuple(self.embed_dim // 2**i for i in reversed(range(FORMS[self.form].stages)))


class PatchEmbedding(nn.Module):
    """Convolutions that shrink and widen, and a shortcut of one 1x1 convolution around them.

    Called SPEDS in the paper. The first embedding runs some convolutions before the shortcut
    branches off.

    Args:
        config: configuration of the network.
        widths: channels of the input and of each convolution's output.
        pooling: a digit for each convolution, 1 where it pools.
        stem: whether its input is the image, or frames.
        shared: number of convolutions before the shortcut branches off.
    """

    def __init__(
        self,
        config: QKFormerConfig,
        widths: Sequence[int],
        pooling: str,
        *,
        stem: bool,
        shared: int,
    ) -> None:
        super().__init__()
        self.shared = shared
        self.convs = nn.ModuleList(
            ConvBNNeuron(
                widths[i],
                widths[i + 1],
                3,
                neuron=make_neuron(config, static_input=stem and i == 0),
                pool="before" if pooled == "1" else None,
            )
            for i, pooled in enumerate(pooling)
        )
        self.shortcut = ConvBNNeuron(
            widths[shared],
            widths[-1],
            stride=2 ** pooling[shared:].count("1"),
            neuron=make_neuron(config),
        )

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of the main path (the convolutions that are not shared) and the shortcut."""
        main = x
        for conv in self.convs[self.shared :]:
            main = conv(main)
        return main + cast(torch.Tensor, self.shortcut(x))

    def channel_roles(self) -> dict[str, ChannelRole]:
        """Channels of all convolutions but the last are inside the embedding."""
        return {f"convs.{i}": ChannelRole(str(i)) for i in range(len(self.convs) - 1)}


class QKAttention(nn.Module):
    """Q-K attention: `neuron(sum of q)` gates k, then projection (Zhou et al., NeurIPS 2024).

    The sum runs over the channels of a head, which gives a gate for each head and token, or
    over tokens, which gives one for each channel (there heads do not matter).

    Args:
        q: unit that maps `[T*N, C, H, W]` to spikes, of any width that the heads divide (over
            tokens: as wide as k).
        k: likewise.
        neuron: neuron behind the sum.
        proj: unit that maps k's width to C.
        num_heads: heads.
        over_tokens: whether the sum runs over tokens, else over the channels of a head.
    """

    def __init__(
        self,
        *,
        q: nn.Module,
        k: nn.Module,
        neuron: nn.Module,
        proj: nn.Module,
        num_heads: int,
        over_tokens: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.over_tokens = over_tokens
        self.q, self.k = q, k
        self.neuron = neuron
        self.proj = proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the attention, of the same shape as `x`, `[T*N, C, H, W]`."""
        q, k = self.q(x), self.k(x)
        if self.over_tokens:
            gated = self.neuron(q.sum(dim=(2, 3), keepdim=True)) * k
        else:
            by_head = (self.num_heads, -1)
            gate = self.neuron(q.unflatten(1, by_head).sum(dim=2))
            gated = (gate.unsqueeze(2) * k.unflatten(1, by_head)).flatten(1, 2)
        return cast(torch.Tensor, self.proj(gated))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Groups of q and k: one each, with heads, if sums run over channels; else a common one."""
        if self.over_tokens:
            return {"q": ChannelRole("qk"), "k": ChannelRole("qk")}
        return {"q": ChannelRole("q", self.num_heads), "k": ChannelRole("k", self.num_heads)}

    def coupled(self) -> tuple[nn.Module, Sequence[str]]:
        """Stand-in for the coupling proxy, see `coupling.Coupled`."""
        return _CoupledQKAttention(self), ("gate",)


class _CoupledQKAttention(nn.Module):
    """Stand-in of Q-K attention: k's channels go to proj; a gate of sums over tokens keeps q's."""

    def __init__(self, attention: QKAttention) -> None:
        super().__init__()
        self.over_tokens = attention.over_tokens
        self.q, self.k, self.proj = attention.q, attention.k, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gate, k = self.q(x), self.k(x)
        return cast(torch.Tensor, self.proj(self.gate * k if self.over_tokens else k))


class QKFormerBlock(nn.Module):
    """Attention and MLP, each added to the stream: spikes add up to small integers."""

    def __init__(self, config: QKFormerConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        self.attn = _attention(config, stage)
        self.mlp = SpikingMLP(config, width, int(width * config.mlp_ratio))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after attention, `x + attention(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP, `x + MLP(x)`."""
        return x + cast(torch.Tensor, self.mlp(x))


def _attention(config: QKFormerConfig, stage: int) -> nn.Module:
    width, heads = config.widths[stage], config.stage_heads[stage]

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(width, width, neuron=make_neuron(config))

    q, k, proj = unit(), unit(), unit()
    neuron = make_neuron(config, v_threshold=config.attention_v_threshold)
    if stage < len(config.widths) - 1:
        over_tokens = config.qk_attention == "channel"
        return QKAttention(
            q=q, k=k, neuron=neuron, proj=proj, num_heads=heads, over_tokens=over_tokens
        )
    return SpikingSelfAttention(
        q=q, k=k, v=unit(), neuron=neuron, proj=proj, num_heads=heads, scale=config.attention_scale
    )


class QKFormerStage(nn.Module):
    """Patch embedding and blocks of one width."""

    def __init__(self, config: QKFormerConfig, stage: int) -> None:
        super().__init__()
        form, width = FORMS[config.form], config.widths[stage]
        if stage == 0:
            widths = (config.in_channels, *(width // share for share in form.stem_shares))
        else:
            widths = (config.widths[stage - 1], width, width)
        self.embed = PatchEmbedding(
            config,
            widths,
            form.pooling if stage else form.stem,
            stem=stage == 0,
            shared=0 if stage else form.stem_shared,
        )
        self.blocks = nn.ModuleList(
            QKFormerBlock(config, stage) for _ in range(config.depths[stage])
        )

    def segments(self, name: str) -> list[Segment]:
        """Convolutions before the shortcut, the rest of the embedding, each half block."""
        embed = self.embed
        chain, units = [], [f"{name}.embed.convs.{i}" for i in range(len(embed.convs))]
        for i in range(embed.shared):
            chain.append(Segment(f"{name}.embed.{i}", (units[i],), embed.convs[i]))
        branches = (*units[embed.shared :], f"{name}.embed.shortcut")
        chain.append(Segment(f"{name}.embed", branches, embed.branch))
        for i, module in enumerate(self.blocks):
            block, owner = cast(QKFormerBlock, module), f"{name}.blocks.{i}"
            chain.append(Segment(f"{owner}.attn", (f"{owner}.attn",), block.attend))
            chain.append(Segment(f"{owner}.mlp", (f"{owner}.mlp",), block.feed_forward))
        return chain


class QKFormer(SpikingNetwork):
    """Stages of growing width, Q-K attention in all but the last, which has SSA; head.

    Each sample is computed by itself, as upstream's code does with batches of one; in larger
    ones the neuron behind its projection of SSA runs on from sample to sample.
    """

    def __init__(self, config: QKFormerConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList(QKFormerStage(config, i) for i in range(len(config.widths)))
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[T*N, D, H, W]`: head on the mean over tokens and T."""
        return cast(torch.Tensor, self.head(self.over_time(x.mean(dim=(2, 3)))))

    def segments(self) -> tuple[Segment, ...]:
        """Segments of each stage, then the head."""
        stages = (cast(QKFormerStage, module) for module in self.stages)
        chain = [link for i, s in enumerate(stages) for link in s.segments(f"stages.{i}")]
        return (*chain, Segment("head", ("head",), self.classify))
