"""A trained SViT with its configuration, preprocessing and class names."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.model.source import Source
from primesvt_deploy.summary import Shown, Summary, megabytes, shortened

__all__ = ["SViT", "time_first"]


def time_first(samples: torch.Tensor) -> torch.Tensor:
    """Put the time axis of samples first, as networks and artifacts take it.

    Args:
        samples: images `[N, C, H, W]`, returned as they are, or frames `[N, T, C, H, W]`, returned
            as `[T, N, C, H, W]`.
    """
    return samples.transpose(0, 1) if samples.ndim == 5 else samples


@dataclass(frozen=True, kw_only=True, repr=False)
class SViT(Shown):
    """A trained spiking vision transformer.

    Args:
        name: name in reports.
        family: its family.
        config: constructor arguments before pruning; the module may be narrower.
        module: the network; maps images `[N, C, H, W]` (preprocessed, float32; a quantized one
            may take pixels, uint8), or frames `[T, N, C, H, W]`, to logits `[N, K]`.
        preprocessing: steps from an RGB image, or event frames, to the module's input.
        labels: K class names, in the order of the logits.
        data: name of the bundled data set it was trained on, if it is bundled.
        notes: what a reader of its results should know of how it was read or adopted, one line
            each; shown in manifest, report and tables.
        recorded_accuracy: top-1, percent, that its file says it has; None: it says nothing.
        source: the file of its weights; None: they come from no file.
    """

    name: str
    family: Family
    config: NetworkConfig
    module: SpikingNetwork
    preprocessing: InputSteps
    labels: tuple[str, ...]
    data: str | None = None
    notes: tuple[str, ...] = ()
    recorded_accuracy: float | None = None
    source: Source | None = None

    @property
    def timesteps(self) -> int:
        """Number of timesteps, T."""
        return self.config.timesteps

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The note of its family, if that has one, then its own."""
        return (*((self.family.note,) if self.family.note else ()), *self.notes)

    @property
    def sample_dtype(self) -> np.dtype[Any]:
        """Type of samples: uint8 where they are pixels, float32 where they are preprocessed."""
        return self.preprocessing.sample_dtype

    def batch_of(self, most: int) -> int:
        """Batch size that fits memory: `most` for inputs up to 64 pixels, less for larger ones."""
        _, height, width = self.config.input_shape
        return max(1, min(most, most * 64 * 64 // (height * width)))

    @property
    def digest(self) -> str:
        """SHA-256 of configuration, constants of neurons and weights, as hexadecimal digits.

        Of an adopted module it includes the logits of noise, as these depend on the user's code.
        """
        whole = hashlib.sha256(repr(sorted(self.config.to_dict().items())).encode())
        for key, tensor in sorted(self.module.state_dict().items()):
            whole.update(key.encode())
            whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        for name, module in self.module.named_modules():
            if isinstance(module, Neuron):
                whole.update(f"{name} {module.parameters_}".encode())
        if not self.module.couplings_declared:
            noise = torch.Generator().manual_seed(0)
            example = torch.randn(self.config.example(1).shape, generator=noise)
            whole.update(self._outputs(example).numpy().tobytes())
        return whole.hexdigest()

    @torch.no_grad()
    def _outputs(self, example: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(example)
        return result

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of preprocessed samples.

        Args:
            images: images `[N, C, H, W]` or frames `[N, T, C, H, W]`, as data sets give them.
        """
        result: torch.Tensor = self.module(time_first(images))
        return result

    def _summary(self) -> Summary:
        classes = f"{len(self.labels)} classes ({shortened(self.labels)})"
        shape = " x ".join(map(str, self.config.input_shape))
        count = sum(parameter.numel() for parameter in self.module.parameters())
        kind = f"{self.timesteps} frames" if self.config.frames else "images"
        rows = [
            ("family", f"{self.family.name}, T = {self.timesteps}, {classes}"),
            ("input", f"{kind} of {shape}"),
            ("size", f"{count:,} parameters, {megabytes(4 * count)} as float32"),
        ]
        if self.source is not None:
            rows.append(("weights", f"{self.source.file}, SHA-256 {self.source.sha256[:12]}..."))
        if self.recorded_accuracy is not None:
            rows.append(("top-1", f"{self.recorded_accuracy:.2f}%, as its file says"))
        if self.data is not None:
            rows.append(("data", f"{self.data}, which comes with it"))
        rows += [("note", shortened([note])) for note in self.all_notes]
        return Summary(f"SViT {self.name}", tuple(rows))

    def at_timesteps(self, timesteps: int) -> SViT:
        """The same weights run for another number of timesteps.

        Raises:
            ModelError: T cannot be chosen (the input is frames, weights are of single timesteps, or
                the module is adopted and has T in its code), or it is not 1 to the model's own T.
        """
        if timesteps == self.timesteps:
            return self
        why = self._why_timesteps_are_fixed()
        if why is not None:
            raise ModelError(
                f"{self.name} runs for the {self.timesteps} timesteps of {why}: they cannot be "
                f"{timesteps}"
            )
        if not 1 <= timesteps <= self.timesteps:
            raise ModelError(
                f"timesteps are {timesteps}: expected 1 to {self.timesteps}, what {self.name} was "
                "trained with"
            )
        module = copy.deepcopy(self.module)
        set_timesteps(module, timesteps)
        return replace(self, config=replace(self.config, timesteps=timesteps), module=module)

    def _why_timesteps_are_fixed(self) -> str | None:
        """The thing that sets T, for messages; None: T can be chosen."""
        if self.config.frames:
            return "its frames"
        if self.module.timesteps_in_weights:
            return "its weights"
        return None if self.module.couplings_declared else "its own code"

    def with_module(self, module: SpikingNetwork) -> SViT:
        """The same SViT with another module, such as a pruned one."""
        return replace(self, module=module)
