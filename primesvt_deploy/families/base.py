"""What every SViT family tells of itself, and what a user may have to tell of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork

__all__ = [
    "CIFAR",
    "IMAGENET",
    "Family",
    "InputDefaults",
    "ModelOptions",
    "State",
    "TrackedOptions",
]

State = Mapping[str, torch.Tensor]
_T = TypeVar("_T")

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and standard deviation of CIFAR-10's channels, for values in 0..1."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The same of ImageNet."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What weights alone do not tell; None where neither the user nor the checkpoint said.

    Args:
        timesteps: T.
        num_heads: attention heads (of the last stage where they differ from stage to stage).
        stage_heads: the same of each stage; says more than `num_heads`.
        image_size: height and width of the square input, pixels.
        patch_size: input pixels per token side: 16 pools in all four stem stages, 4 in the last
            two.
        pooling: which of the four stem stages pool, such as `0011`; says more than `patch_size`.
        levels: D of integer neurons (Spike-driven Transformer V3).
        frames: whether the input is a sequence of T frames (event cameras).
        tau: membrane time constant, as the model's constructor takes it, timesteps.
        v_threshold: firing threshold, likewise.
    """

    timesteps: int | None = None
    num_heads: int | None = None
    stage_heads: tuple[int, ...] | None = None
    image_size: int | None = None
    patch_size: int | None = None
    pooling: str | None = None
    levels: int | None = None
    frames: bool | None = None
    tau: float | None = None
    v_threshold: float | None = None

    def demand(self, name: str) -> Any:
        """The option called `name`.

        Raises:
            ModelError: nobody said it; names the flag to pass.
        """
        value = getattr(self, name)
        if value is None:
            what, flag = _DEMANDS[name]
            raise ModelError(f"the weights do not tell {what}: pass {flag}")
        return value

    def takes_frames(self, in_channels: int) -> bool:
        """Whether the input is frames: as said, else where it has not an image's 1 or 3 channels.

        Event frames have two: one of each polarity.
        """
        return in_channels == 2 if self.frames is None else self.frames


class TrackedOptions(ModelOptions):
    """Options that know which of them were asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name in ModelOptions.__dataclass_fields__:
            object.__getattribute__(self, "__dict__").setdefault("_asked", set()).add(name)
        return object.__getattribute__(self, name)

    def require_use(self, told: Iterable[str], family: str) -> None:
        """Refuse options that the user told and that nobody asked for.

        Raises:
            ModelError: one of `told` means nothing for this checkpoint.
        """
        for name in told:
            if name not in vars(self).get("_asked", set()):
                flag = name.removeprefix("num_").replace("_", "-")
                raise ModelError(
                    f"--{flag} is told by the weights, or means nothing for a {family}: drop it"
                )


_DEMANDS = {
    "timesteps": ("the number of timesteps", "--timesteps"),
    "num_heads": ("the number of heads", "--heads"),
    "stage_heads": ("the heads of each stage", "--stage-heads, such as 3,6,6"),
    "image_size": ("the image size", "--image-size"),
    "patch_size": ("the patch size (4 or 16)", "--patch-size"),
    "pooling": ("which stem stages pool", "--pooling, such as 1111"),
    "levels": ("the levels of its integer neurons", "--levels"),
}


@dataclass(frozen=True, kw_only=True)
class InputDefaults:
    """Evaluation preprocessing where the user does not say another.

    Args:
        resize_at_224: length that the shorter side is resized to before a crop of 224 pixels;
            other sizes in proportion. Up to 64 pixels images are neither enlarged nor cropped.
        crops_above_224: whether inputs of more than 224 pixels are cropped from images enlarged
            in proportion too, or images are resized to just that size.
        interpolation: `bicubic` or `bilinear`.
        small: mean and standard deviation for inputs up to 64 pixels.
        large: the same for larger ones.
    """

    resize_at_224: int = 224
    crops_above_224: bool = True
    interpolation: str = "bicubic"
    small: tuple[tuple[float, ...], tuple[float, ...]] = CIFAR
    large: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET

    def resize(self, size: int) -> int:
        """Length of the shorter side before a crop of `size` pixels."""
        whole = size <= 64 or (size > 224 and not self.crops_above_224)
        return size if whole else size * self.resize_at_224 // 224

    def statistics(self, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for inputs of `size` pixels."""
        return self.small if size <= 64 else self.large


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of SViT: how it is recognised, read and built.

    Args:
        name: what `--family` takes.
        title: name and source, for people.
        config_type: its configuration.
        network: its network for a configuration, with fresh weights.
        recognises: whether a state_dict with these keys looks like this family's.
        convert: configuration and state_dict of our network for an upstream state_dict, given
            what the weights do not tell; raises ModelError. Layers that it does
            not know pass under their names, for the loader to list. Widths and biases follow
            the state_dict, see `families.fit`.
        flags: what a checkpoint file alone does not tell, as the options to pass; bracketed where
            some files tell it.
        inputs: evaluation preprocessing.
        note: what a user of the family must know, shown in reports; empty for most.
    """

    name: str
    title: str
    config_type: type[NetworkConfig]
    network: Callable[[Any], SpikingNetwork]
    recognises: Callable[[Set[str]], bool]
    convert: Callable[[State, ModelOptions], tuple[NetworkConfig, dict[str, torch.Tensor]]]
    flags: str
    inputs: InputDefaults = InputDefaults()
    note: str = ""

    def build(self, config: NetworkConfig) -> SpikingNetwork:
        """A network with fresh weights, in evaluation mode."""
        if not isinstance(config, self.config_type):
            raise ModelError(
                f"expected a {self.config_type.__name__}, found {type(config).__name__}"
            )
        return self.network(config).eval()

    def config_from_dict(self, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `NetworkConfig.to_dict`; raises ModelError."""
        try:
            return self.config_type.from_dict(values)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error
