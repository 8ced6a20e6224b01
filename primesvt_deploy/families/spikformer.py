"""Spikformer as a `Family`: checkpoints, groups and segments of `spikformer_net.Spikformer`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import FamilyConfig, ModelOptions, Segment
from primesvt_deploy.families.spikformer_keys import (
    convert_state,
    looks_like_spikformer,
    shape_facts,
)
from primesvt_deploy.families.spikformer_net import (
    Spikformer,
    SpikformerBlock,
    SpikformerConfig,
    SpikingSelfAttention,
)
from primesvt_deploy.families.units import ConvBNNeuron

__all__ = ["SPIKFORMER", "SpikformerFamily"]


class _CoupledAttention(nn.Module):
    """SSA in DepGraph's language, over the same layers under the same names.

    The matrix products share an index between q and k, and pass v's channels to proj; as
    elementwise operations that is `q * k` (a second output, kept by the twin) and `proj(v)`.
    """

    def __init__(self, attention: SpikingSelfAttention) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = attention.q, attention.k, attention.v, attention.proj

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.proj(self.v(x)), self.q(x) * self.k(x)


class _CoupledSpikformer(nn.Module):
    """The traced twin: logits, and each block's `q * k` so that q and k are on the graph."""

    def __init__(self, model: Spikformer) -> None:
        super().__init__()
        self.stem, self.position = model.stem, model.position
        self.blocks, self.head = model.blocks, model.head

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = images
        for stage in self.stem:
            x = stage(x)
        x = x + self.position(x)
        products = []
        for block in self.blocks:
            attended, product = cast(Any, block).attn(x)
            products.append(product)
            x = x + attended
            x = x + cast(Any, block).mlp(x)
        return (self.head(x.mean(dim=(2, 3))), *products)


class SpikformerFamily:
    """Spikformer as a `Family`."""

    name = "spikformer"
    classifiers = ("head",)

    def recognises(self, keys: set[str]) -> bool:
        """Whether these are SpikingJelly `Spikformer` keys."""
        return looks_like_spikformer(keys)

    def convert(
        self, state: Mapping[str, torch.Tensor], options: ModelOptions
    ) -> tuple[SpikformerConfig, dict[str, torch.Tensor]]:
        """Configuration and state for a state_dict of SpikingJelly 2.0's `Spikformer`."""
        facts = shape_facts(state)
        config = SpikformerConfig(
            **facts,
            timesteps=_demanded(options.timesteps, "the number of timesteps", "--timesteps"),
            num_heads=_demanded(options.num_heads, "the number of heads", "--heads"),
            image_size=_demanded(options.image_size, "the image size", "--image-size"),
            patch_size=_demanded(options.patch_size, "the patch size (4 or 16)", "--patch-size"),
            tau=2.0 if options.tau is None else options.tau,
            v_threshold=1.0 if options.v_threshold is None else options.v_threshold,
            # SpikingJelly's constructor hands v_threshold on to attention, but not tau.
            attention_v_threshold=0.5 if options.v_threshold is None else options.v_threshold,
        )
        return config, convert_state(state)

    def config_from_dict(self, values: Mapping[str, Any]) -> SpikformerConfig:
        """The inverse of `SpikformerConfig.to_dict`."""
        known = {field.name for field in fields(SpikformerConfig)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(
                f"unknown Spikformer argument {unknown[0]!r}: expected some of {sorted(known)}"
            )
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        if plain.get("v_reset") == "soft":
            plain["v_reset"] = None
        try:
            return SpikformerConfig(**plain)
        except TypeError as error:
            raise ModelError(f"incomplete Spikformer configuration: {error}") from error

    def build(self, config: FamilyConfig) -> nn.Module:
        """A Spikformer with fresh weights, in evaluation mode."""
        return Spikformer(_own(config)).eval()

    def resized(self, config: FamilyConfig, state: Mapping[str, torch.Tensor]) -> SpikformerConfig:
        """`config` with the channel widths that `state` has."""

        def width(layer: str) -> int:
            return state[f"{layer}.conv.weight"].shape[0]

        own = _own(config)
        blocks = range(own.depth)
        return replace(
            own,
            embed_dim=width("stem.3"),
            stem_widths=tuple(width(f"stem.{i}") for i in range(3)),
            qk_widths=tuple(width(f"blocks.{i}.attn.q") for i in blocks),
            v_widths=tuple(width(f"blocks.{i}.attn.v") for i in blocks),
            mlp_widths=tuple(width(f"blocks.{i}.mlp.fc1") for i in blocks),
        )

    def coupling_twin(self, module: nn.Module) -> nn.Module:
        """The twin that DepGraph traces; see `Family.coupling_twin`."""
        twin = cast(Spikformer, copy.deepcopy(module))
        for block in twin.blocks:
            block.attn = _CoupledAttention(cast(Any, block).attn)
        for unit in twin.modules():
            if isinstance(unit, ConvBNNeuron):
                unit.neuron = nn.Sigmoid()
        return _CoupledSpikformer(twin)

    def group_label(self, config: FamilyConfig, outputs: Sequence[str]) -> tuple[str, int]:
        """`stem.0`, `residual`, `blocks.0.attn.qk`, `blocks.0.attn.v` or `blocks.0.mlp`."""
        root = min(outputs)
        if "position.conv" in outputs:
            return "residual", 1
        if ".attn." in root:
            block = root.split(".attn.")[0]
            what = "v" if root.endswith("v.conv") else "qk"
            return f"{block}.attn.{what}", _own(config).num_heads
        return root.removesuffix(".conv").removesuffix(".fc1"), 1

    def segments(self, module: nn.Module) -> tuple[Segment, ...]:
        """Stem stages, then each half block, then the head."""
        model = cast(Spikformer, module)
        chain = [Segment(f"stem.{i}", (f"stem.{i}",), model.stem[i]) for i in range(3)]
        chain.append(Segment("embed", ("stem.3", "position"), model.embed))
        for i, block in enumerate(cast(Sequence[SpikformerBlock], model.blocks)):
            chain.append(Segment(f"blocks.{i}.attn", (f"blocks.{i}.attn",), block.attend))
            chain.append(Segment(f"blocks.{i}.mlp", (f"blocks.{i}.mlp",), block.feed_forward))
        chain.append(Segment("head", ("head",), model.classify))
        return tuple(chain)


def _own(config: FamilyConfig) -> SpikformerConfig:
    if not isinstance(config, SpikformerConfig):
        raise ModelError(f"expected a SpikformerConfig, found {type(config).__name__}")
    return config


def _demanded(value: int | None, what: str, flag: str) -> int:
    if value is None:
        raise ModelError(f"the weights do not tell {what}: pass {flag}")
    return value


SPIKFORMER = SpikformerFamily()
