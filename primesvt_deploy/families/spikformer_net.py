"""Spikformer (Zhou et al., ICLR 2023): spiking patch stem, SSA and MLP blocks, spike shortcuts.

The network is SpikingJelly 2.0's `Spikformer`, with q, k and v as layers of their own (exact:
output channels do not interact) so that q/k and v can be pruned apart.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.units import ConvBNNeuron, Neuron, NeuronParameters

__all__ = ["Spikformer", "SpikformerBlock", "SpikformerConfig", "SpikingSelfAttention"]

_POOLED_STAGES = {4: (False, False, True, True), 16: (True, True, True, True)}
_SIZES = (
    "timesteps",
    "image_size",
    "patch_size",
    "in_channels",
    "num_classes",
    "num_heads",
    "embed_dim",
)
_BLOCK_WIDTHS = ("qk_widths", "v_widths", "mlp_widths")
_FACTORS = (
    "tau",
    "v_threshold",
    "v_reset",
    "attention_tau",
    "attention_v_threshold",
    "attention_scale",
)


@dataclass(frozen=True, kw_only=True)
class SpikformerConfig:
    """Constructor arguments of a Spikformer, dense or pruned.

    Args:
        timesteps: T.
        image_size: height and width of the square input, pixels.
        patch_size: 4 (stem pools in its last two stages) or 16 (in all four).
        in_channels: channels of the image.
        num_classes: K.
        num_heads: heads of every SSA; divides each of `qk_widths` and `v_widths`.
        embed_dim: width of the residual stream.
        stem_widths: output channels of the first three stem stages (the fourth: `embed_dim`).
        qk_widths: per block, channels of q and of k.
        v_widths: per block, channels of v.
        mlp_widths: per block, hidden channels of the MLP.
        tau: of the neurons outside SSA, see `NeuronParameters`.
        v_threshold: of all neurons but the one behind the attention product.
        v_reset: of all neurons.
        decay_input: of all neurons.
        attention_tau: of the neurons of SSA.
        attention_v_threshold: threshold of the neuron behind the attention product.
        attention_scale: factor on the attention product; stays what it was when heads shrink.
    """

    timesteps: int
    image_size: int
    patch_size: int
    in_channels: int
    num_classes: int
    num_heads: int
    embed_dim: int
    stem_widths: tuple[int, ...]
    qk_widths: tuple[int, ...]
    v_widths: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    attention_tau: float = 2.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        self._check_values()
        if self.patch_size not in _POOLED_STAGES:
            raise ModelError(
                f"patch size {self.patch_size}: a Spikformer stem has 4 or 16; pass --patch-size"
            )
        if self.image_size % self.patch_size or self.image_size < self.patch_size:
            raise ModelError(
                f"image size {self.image_size} is not a multiple of the patch size "
                f"{self.patch_size}; pass another --image-size"
            )
        for what, widths in (("q/k", self.qk_widths), ("v", self.v_widths)):
            odd = [width for width in widths if width % self.num_heads]
            if odd:
                raise ModelError(
                    f"{self.num_heads} heads do not divide the {what} width {odd[0]}; "
                    "pass the head count the model was trained with as --heads"
                )

    def _check_values(self) -> None:
        """Refuse values of the wrong type, sizes below 1 and widths of the wrong number."""
        for name in _SIZES:
            if not _is_size(getattr(self, name)):
                raise ModelError(
                    f"{name} is {getattr(self, name)!r}: expected a whole number, 1 or more"
                )
        if not isinstance(self.mlp_widths, tuple):
            raise ModelError(f"mlp_widths is {self.mlp_widths!r}: expected a list of widths")
        numbers = {"stem_widths": 3} | dict.fromkeys(_BLOCK_WIDTHS, len(self.mlp_widths))
        for name, number in numbers.items():
            widths = getattr(self, name)
            whole = isinstance(widths, tuple) and all(map(_is_size, widths))
            if not whole or len(widths) != number:
                raise ModelError(
                    f"{name} is {widths!r}: expected {number} whole numbers, 1 or more each"
                )
        for name in _FACTORS:
            value = getattr(self, name)
            soft = name == "v_reset" and value is None
            if not soft and not (type(value) in (int, float) and math.isfinite(value)):
                raise ModelError(f"{name} is {value!r}: expected a finite number")
        if not isinstance(self.decay_input, bool):
            raise ModelError(f"decay_input is {self.decay_input!r}: expected true or false")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.mlp_widths)

    def neuron(self, tau: float, v_threshold: float) -> NeuronParameters:
        """Parameters of a neuron with this time constant and threshold."""
        return NeuronParameters(
            tau=tau,
            v_threshold=v_threshold,
            v_reset=self.v_reset,
            decay_input=self.decay_input,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `v_reset` is left out where it is None, as TOML has no null."""
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        if self.v_reset is None:
            values["v_reset"] = "soft"
        return values


class SpikingSelfAttention(nn.Module):
    """SSA: `LIF(scale * (v k^T) q)` head by head, then projection (Spikformer, section 3.2)."""

    def __init__(self, config: SpikformerConfig, qk_width: int, v_width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.attention_scale
        dim = config.embed_dim
        tau = config.attention_tau
        self.q = _unit(config, dim, qk_width, 1, tau=tau)
        self.k = _unit(config, dim, qk_width, 1, tau=tau)
        self.v = _unit(config, dim, v_width, 1, tau=tau)
        self.neuron: nn.Module = Neuron(
            config.neuron(config.attention_tau, config.attention_v_threshold),
            timesteps=config.timesteps,
        )
        self.proj = _unit(config, v_width, dim, 1, tau=tau)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[T*N, embed_dim, H, W]` to the same shape."""
        q, k, v = (self._heads(unit(x)) for unit in (self.q, self.k, self.v))
        attended = (v @ k.transpose(-2, -1)) @ q * self.scale
        spikes = self.neuron(attended.flatten(1, 2).unflatten(-1, x.shape[-2:]))
        return cast(torch.Tensor, self.proj(spikes))

    def absorb_gain(self, gain: float) -> None:
        """Multiply what the neuron behind the attention product receives by `gain`."""
        self.scale *= gain

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """`[T*N, C, H, W]` to `[T*N, heads, C / heads, H*W]`."""
        heads: torch.Tensor = x.flatten(2).unflatten(1, (self.num_heads, -1))
        return heads


class SpikingMLP(nn.Module):
    """Two 1x1 convolutions, each with batch norm and neuron."""

    def __init__(self, config: SpikformerConfig, hidden: int) -> None:
        super().__init__()
        self.fc1 = _unit(config, config.embed_dim, hidden, 1)
        self.fc2 = _unit(config, hidden, config.embed_dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[T*N, embed_dim, H, W]` to the same shape."""
        return cast(torch.Tensor, self.fc2(self.fc1(x)))


class SpikformerBlock(nn.Module):
    """SSA and MLP, each added to the stream: spikes add up to small integers."""

    def __init__(self, config: SpikformerConfig, index: int) -> None:
        super().__init__()
        self.attn: nn.Module = SpikingSelfAttention(
            config, config.qk_widths[index], config.v_widths[index]
        )
        self.mlp = SpikingMLP(config, config.mlp_widths[index])

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """`x + SSA(x)`."""
        return x + cast(torch.Tensor, self.attn(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x + MLP(x)`."""
        return x + cast(torch.Tensor, self.mlp(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[T*N, embed_dim, H, W]` to the same shape."""
        return self.feed_forward(self.attend(x))


class Spikformer(nn.Module):
    """Images `[N, C, H, W]` to logits `[N, K]`, the mean over T; the first layer runs once.

    A static image drives every timestep alike, so the first convolution is computed for one
    step and its neuron presents it T times.
    """

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__()
        self.timesteps = config.timesteps
        widths = (config.in_channels, *config.stem_widths, config.embed_dim)
        pooled = _POOLED_STAGES[config.patch_size]
        self.stem = nn.ModuleList(
            _unit(config, widths[i], widths[i + 1], 3, pool=pooled[i], static_input=i == 0)
            for i in range(4)
        )
        self.position = _unit(config, config.embed_dim, config.embed_dim, 3)
        self.blocks = nn.ModuleList(SpikformerBlock(config, i) for i in range(config.depth))
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Last stem stage and positional encoding, `[T*N, C, H, W]` to `[T*N, D, H', W']`."""
        x = self.stem[3](x)
        return x + cast(torch.Tensor, self.position(x))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Stream `[T*N, D, H, W]` to logits `[N, K]`: head on the mean over tokens and T."""
        rates = x.mean(dim=(2, 3)).unflatten(0, (self.timesteps, -1)).mean(dim=0)
        return cast(torch.Tensor, self.head(rates))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of `[N, C, H, W]`."""
        x = images
        for stage in self.stem[:3]:
            x = stage(x)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(x)


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 1


def _unit(
    config: SpikformerConfig,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    pool: bool = False,
    static_input: bool = False,
    tau: float | None = None,
) -> ConvBNNeuron:
    neuron = Neuron(
        config.neuron(config.tau if tau is None else tau, config.v_threshold),
        timesteps=config.timesteps,
        static_input=static_input,
    )
    return ConvBNNeuron(in_channels, out_channels, kernel_size, neuron=neuron, pool=pool)
