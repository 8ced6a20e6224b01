"""The protocol that every SViT family answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["Family", "FamilyConfig", "ModelOptions", "Segment"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What weights alone do not tell; None where the user did not say.

    Args:
        timesteps: T.
        num_heads: attention heads.
        image_size: height and width of the square input, pixels.
        patch_size: input pixels per token side.
        tau: membrane time constant, as SpikingJelly's constructor takes it (where its Spikformer
            does not hand it on to attention, neither do we), timesteps.
        v_threshold: firing threshold, likewise (there it sets every neuron's).
    """

    timesteps: int | None = None
    num_heads: int | None = None
    image_size: int | None = None
    patch_size: int | None = None
    tau: float | None = None
    v_threshold: float | None = None


class FamilyConfig(Protocol):
    """A family's constructor arguments, the channel widths of a pruned model among them."""

    @property
    def timesteps(self) -> int:
        """T."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `model.toml` and `manifest.json` keep them."""


@dataclass(frozen=True)
class Segment:
    """One link of a model seen as a chain: `run` maps the whole state to the next one.

    `units` are the names of the submodules that run inside; a mask on any of them changes the
    outputs of this segment and of those after it, never of those before.
    """

    name: str
    units: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]


class Family(Protocol):
    """Builds a family's modules and tells how their channels hang together.

    A family's module maps images `[N, C, H, W]` to logits `[N, K]` (the mean over T), is at
    rest before each call, and names its convolutions `*.conv` and their norms `*.bn`.
    """

    @property
    def name(self) -> str:
        """The name that `--family` takes."""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The layers whose outputs are logits: never pruned there."""

    def recognises(self, keys: set[str]) -> bool:
        """Whether a state_dict with these keys looks like this family."""

    def convert(
        self, state: Mapping[str, torch.Tensor], options: ModelOptions
    ) -> tuple[FamilyConfig, dict[str, torch.Tensor]]:
        """Configuration and state_dict of our module for an upstream state_dict.

        Raises:
            ModelError: keys or shapes are not this family's, or an option is missing or wrong.
        """

    def config_from_dict(self, values: Mapping[str, Any]) -> FamilyConfig:
        """The inverse of `FamilyConfig.to_dict`; raises ModelError."""

    def build(self, config: FamilyConfig) -> nn.Module:
        """A module with fresh weights, in evaluation mode."""

    def resized(self, config: FamilyConfig, state: Mapping[str, torch.Tensor]) -> FamilyConfig:
        """`config` with the channel widths that `state` has."""

    def coupling_twin(self, module: nn.Module) -> nn.Module:
        """A deep copy under the same parameter names whose graph DepGraph reads rightly.

        Neurons become stateless elementwise stand-ins and an index shared through a matrix
        product becomes an elementwise product; the twin is traced and cut, never evaluated.
        """

    def group_label(self, config: FamilyConfig, outputs: Sequence[str]) -> tuple[str, int]:
        """Name and head count of the group in which these layers lose output channels.

        Channels leave in equal numbers from each head; 1 where heads are irrelevant.
        """

    def segments(self, module: nn.Module) -> tuple[Segment, ...]:
        """The module as a chain: feeding images through every segment gives its logits."""
