"""How a pruned model is trained on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings.base import Brief, check_seed

__all__ = ["FinetuneSettings"]


@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneSettings(Brief):
    """How a pruned model is trained on.

    Args:
        epochs: passes over the train split.
        timesteps: T of each epoch, the last one's for those beyond; empty: the model's own. Fewer
            first is cheaper; the last must be the model's own.
        learning_rate: peak of AdamW's, after a warm-up, falling to 0 as a cosine.
        warmup: share of all steps over which it rises.
        weight_decay: on weights; biases and norms have none.
        batch_size: images a step, of all workers together.
        distillation: weight of the divergence from the dense model's probabilities in the loss;
            the rest is cross-entropy with the labels.
        temperature: of that divergence's probabilities.
        images: train images used, the first in an order fixed by `seed`; None: all.
        seed: of order and augmentation.

    Raises:
        SettingsError: a value is out of range, or of another type.
    """

    epochs: int = 1
    timesteps: tuple[int, ...] = ()
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    batch_size: int = 64
    distillation: float = 0.5
    temperature: float = 2.0
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        self.check_types()
        for name, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"fine-tuning {name.replace('_', ' ')} are {getattr(self, name)}: expected "
                    f"{least} or more"
                )
        check_seed(self.seed)
        for name, low, high in (
            ("learning_rate", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("distillation", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise SettingsError(
                    f"fine-tuning {name.replace('_', ' ')} is {getattr(self, name)}: expected "
                    f"{low:g} to {high:g}"
                )
        if not 0.0 < self.temperature < math.inf:
            raise SettingsError(f"temperature is {self.temperature}: expected more than 0")
        if any(steps < 1 for steps in self.timesteps):
            raise SettingsError(f"timesteps are {list(self.timesteps)}: expected 1 or more each")
        if self.epochs < len(self.timesteps):
            raise SettingsError(
                f"{len(self.timesteps)} timesteps are given for {self.epochs} "
                f"{'epoch' if self.epochs == 1 else 'epochs'}: one an epoch at most"
            )
        if self.images is not None and self.images < self.batch_size:
            raise SettingsError(
                f"fine-tuning images are {self.images}: expected a batch of {self.batch_size} at "
                "least"
            )

    def steps_of(self, epoch: int, timesteps: int) -> int:
        """T of an epoch (from 0) of a model of so many timesteps."""
        return self.timesteps[min(epoch, len(self.timesteps) - 1)] if self.timesteps else timesteps

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "timesteps": list(self.timesteps)}
