"""A trained SViT and what is needed to use it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import nn

from primesvt_deploy.families.base import Family, FamilyConfig
from primesvt_deploy.runtime.preprocess import Preprocessing

__all__ = ["SViT"]


@dataclass(frozen=True, kw_only=True)
class SViT:
    """A trained spiking vision transformer.

    Args:
        name: what reports call it.
        family: how its kind is built and pruned.
        config: constructor arguments, widths included.
        module: maps images `[N, C, H, W]` (preprocessed, float32) to logits `[N, K]`.
        preprocessing: from an RGB image to the module's input.
        labels: K class names, in the order of the logits.
        data: name of the bundled data set it was trained on, if it is bundled.
    """

    name: str
    family: Family
    config: FamilyConfig
    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    data: str | None = None

    @property
    def timesteps(self) -> int:
        """T."""
        return self.config.timesteps

    @property
    def digest(self) -> str:
        """SHA-256 over configuration and weights."""
        whole = hashlib.sha256(repr(sorted(self.config.to_dict().items())).encode())
        for key, tensor in sorted(self.module.state_dict().items()):
            whole.update(key.encode())
            whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of preprocessed images `[N, C, H, W]`."""
        result: torch.Tensor = self.module(images)
        return result

    def with_module(self, config: FamilyConfig, module: nn.Module) -> SViT:
        """The same SViT with another (pruned) module."""
        return replace(self, config=config, module=module)
