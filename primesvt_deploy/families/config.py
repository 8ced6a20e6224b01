"""Base class of configurations: the constructor arguments that every family's network has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.neuron import NeuronParameters

__all__ = ["NetworkConfig"]

_MOST = {"timesteps": 4096, "image_size": 16_384, "depth": 1000, "": 2**24}
"""Largest whole numbers, by a part of the argument's name."""
_MOST_RATIO = 64
"""Largest ratio of the width of an MLP to that of its block."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Constructor arguments of a network before pruning; weights may be narrower.

    A family's own arguments are fields of a subclass; allowed types are int (1 or more), float
    (finite), bool, str and tuples of int. Values of another type or range are refused.

    Args:
        timesteps: T.
        image_size: height and width of the square input, pixels.
        in_channels: channels of the input.
        num_classes: number of classes, K.
        frames: whether the input is a sequence of T frames, not an image presented T times.
        tau: membrane time constant of every neuron, timesteps; see `NeuronParameters`.
        v_threshold: firing threshold of every neuron, unless the family has another for some.
        v_reset: potential of every neuron after a spike; None resets softly.
        decay_input: whether every neuron divides its input by tau as well.
    """

    timesteps: int
    image_size: int
    in_channels: int
    num_classes: int
    frames: bool = False
    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        """Refuse values of the wrong type or range."""
        for field in fields(self):
            expected = _misfit(str(field.type), getattr(self, field.name))
            if expected:
                found = getattr(self, field.name)
                raise ModelError(f"{field.name} is {found!r:.60}: expected {expected}")
            self._check_size(field.name)
            if type(getattr(self, field.name)) is int and "float" in str(field.type):
                # SpikingJelly takes no whole numbers for them.
                object.__setattr__(self, field.name, float(getattr(self, field.name)))

    def _check_size(self, name: str) -> None:
        """Refuse a size far beyond any network's, which nothing can be allocated for."""
        value = getattr(self, name)
        if type(value) in (int, float) and "ratio" in name and not 0.0 < value <= _MOST_RATIO:
            raise ModelError(
                f"{name} is {value!r:.60}: expected more than 0, at most {_MOST_RATIO}"
            )
        most = next((most for part, most in _MOST.items() if part in name), _MOST[""])
        sizes = value if isinstance(value, tuple) else (value,)
        if any(type(size) is int and size > most for size in sizes):
            raise ModelError(f"{name} is {value!r:.60}: expected {most} at most")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image or frame."""
        return (self.in_channels, self.image_size, self.image_size)

    def example(self, batch: int) -> torch.Tensor:
        """Zeros of the network's input: images `[N, C, H, W]` or frames `[T, N, C, H, W]`."""
        steps = (self.timesteps,) if self.frames else ()
        return torch.zeros(*steps, batch, *self.input_shape)

    def neuron(self, v_threshold: float | None = None) -> NeuronParameters:
        """Constants of the network's neurons; `v_threshold` None gives the network's."""
        return NeuronParameters(
            tau=self.tau,
            v_threshold=self.v_threshold if v_threshold is None else v_threshold,
            v_reset=self.v_reset,
            decay_input=self.decay_input,
        )

    def with_tau(self, tau: float) -> Self:
        """The same configuration with another time constant."""
        return replace(self, tau=tau)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML and JSON; `v_reset` None is `soft`, as TOML has no null."""
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        return values | ({"v_reset": "soft"} if self.v_reset is None else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ModelError: an argument is unknown, missing, or of the wrong type or range.
        """
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ModelError(f"unknown argument {unknown[0]!r}: expected some of {sorted(names)}")
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        if plain.get("v_reset") == "soft":
            plain["v_reset"] = None
        try:
            return cls(**plain)
        except TypeError as error:
            raise ModelError(f"incomplete configuration: {error}") from error

    def require_multiple(self, factor: int) -> None:
        """Refuse an image size that is no multiple of `factor`, the stem's total stride.

        Raises:
            ModelError: it is not.
        """
        if self.image_size % factor or self.image_size < factor:
            raise ModelError(
                f"image size {self.image_size} is not a multiple of {factor}, by which this model "
                "shrinks its input; pass another --image-size"
            )

    def require_heads(self, heads: int, width: int) -> None:
        """Refuse a number of heads that does not divide the width of the attention.

        Raises:
            ModelError: it does not.
        """
        if width % heads:
            raise ModelError(
                f"{heads} heads do not divide the attention width {width}; pass the head count "
                "the model was trained with as --heads"
            )


def _misfit(kind: str, value: object) -> str | None:
    """Description of the values that an annotated type allows; None if `value` is one of them."""
    if kind == "int":
        return None if _is_size(value) else "a whole number, 1 or more"
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    if kind == "str":
        return None if isinstance(value, str) else "a string"
    if kind == "tuple[int, ...]":
        fits = isinstance(value, tuple) and bool(value) and all(map(_is_size, value))
        return None if fits else "whole numbers, 1 or more each"
    if kind == "float | None" and value is None:
        return None
    fits = type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return None if fits else "a finite number"


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 1
