"""Options that a checkpoint's weights alone do not determine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from primesvt_deploy.errors import ModelError

__all__ = ["NEURON_AND_INPUT", "MissingOption", "ModelOptions", "missing_options", "with_options"]

_T = TypeVar("_T")

NEURON_AND_INPUT = frozenset({"timesteps", "image_size", "frames", "tau", "v_threshold"})
"""Names of the options that every family uses."""
_NAMES_AND_FLAGS = {
    "timesteps": ("the number of timesteps", "--timesteps"),
    "num_heads": ("the number of heads", "--heads"),
    "stage_heads": ("the number of heads of each stage", "--stage-heads, such as 3,6,6"),
    "image_size": ("the image size", "--image-size"),
    "patch_size": ("the patch size (4 or 16)", "--patch-size"),
    "pooling": ("which stem stages pool", "--pooling, such as 1111"),
    "levels": ("the levels of integer neurons", "--levels"),
    "attention_mode": (
        "the attention mode",
        "--attention-mode STAtten (which upstream's script trains whatever its arguments say) or "
        "SDT",
    ),
    "chunk_size": ("the number of timesteps that attend to each other", "--chunk-size"),
}
_STAND_INS: Mapping[str, Any] = {
    "timesteps": 4,
    "num_heads": 1,
    "stage_heads": (1, 1, 1, 1),
    "image_size": 224,
    "patch_size": 16,
    "pooling": "1111",
    "levels": 4,
    "attention_mode": "STAtten",
    "chunk_size": 1,
}
"""Values under which a conversion goes on to ask for its next option."""


class MissingOption(ModelError):
    """Options that neither the user nor the checkpoint gives.

    Args:
        names: of the options, fields of `ModelOptions`.
        data: the user gives no data either.
    """

    def __init__(self, names: Sequence[str], *, data: bool = False) -> None:
        titles, flags = zip(*(_NAMES_AND_FLAGS[name] for name in names), strict=True)
        lacking = ""
        pass_data: tuple[str, ...] = ()
        if data:
            lacking = ", and a checkpoint comes with no data"
            pass_data = ("--data, an ImageFolder directory or .npz",)
        super().__init__(
            f"{_and(titles)} cannot be read from the weights{lacking}: pass "
            f"{_and((*flags, *pass_data))}"
        )
        self.names = tuple(names)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of a checkpoint; None where neither the user nor the checkpoint gives one.

    Args:
        timesteps: T.
        num_heads: attention heads (of the last stage where they differ from stage to stage).
        stage_heads: attention heads of each stage; takes precedence over `num_heads`.
        image_size: height and width of the square input, pixels.
        patch_size: input pixels per token side: 16 pools in all four stem stages, 4 in the last
            two.
        pooling: which of the four stem stages pool, such as `0011`; takes precedence over
            `patch_size`.
        levels: D, the largest count an integer neuron fires (Spike-driven Transformer V3).
        attention_mode: `STAtten`, or `SDT`, Spike-driven Transformer V1's (STAtten).
        chunk_size: timesteps that attend to each other (STAtten).
        frames: whether the input is a sequence of T frames (event cameras).
        tau: membrane time constant, as the model's constructor takes it, timesteps.
        v_threshold: firing threshold, as the model's constructor takes it.
    """

    timesteps: int | None = None
    num_heads: int | None = None
    stage_heads: tuple[int, ...] | None = None
    image_size: int | None = None
    patch_size: int | None = None
    pooling: str | None = None
    levels: int | None = None
    attention_mode: str | None = None
    chunk_size: int | None = None
    frames: bool | None = None
    tau: float | None = None
    v_threshold: float | None = None

    def require(self, name: str) -> Any:
        """Value of the option called `name`.

        Raises:
            MissingOption: it is None; names the flag to pass.
        """
        value = getattr(self, name)
        if value is None:
            raise MissingOption([name])
        return value

    def takes_frames(self, in_channels: int) -> bool:
        """Whether the input is event frames: as given, else if it has two channels.

        Event frames have one channel for each polarity, images 1 or 3.
        """
        return in_channels == 2 if self.frames is None else self.frames

    def network_arguments(self, in_channels: int) -> dict[str, Any]:
        """Arguments of `NetworkConfig` that every family takes from the options.

        Args:
            in_channels: channels of the input, as the weights have them.

        Raises:
            ModelError: the timesteps or the image size are not given.
        """
        return {
            "timesteps": self.require("timesteps"),
            "image_size": self.require("image_size"),
            "frames": self.takes_frames(in_channels),
            **self.neuron_arguments(),
        }

    def neuron_arguments(self) -> dict[str, float]:
        """Arguments `tau` and `v_threshold` of `NetworkConfig`, with upstream's defaults."""
        return {
            "tau": 2.0 if self.tau is None else self.tau,
            "v_threshold": 1.0 if self.v_threshold is None else self.v_threshold,
        }

    def attention_v_threshold(self, *, passed_on: bool) -> float:
        """Threshold of the neuron behind the attention product: 0.5, as upstream's code has it.

        Args:
            passed_on: whether the model's constructor passes `v_threshold` on to attention, as
                SpikingJelly's classes do.
        """
        return self.v_threshold if passed_on and self.v_threshold is not None else 0.5


def missing_options(convert: Callable[[ModelOptions], object], options: ModelOptions) -> list[str]:
    """Names of all options that a conversion misses, in the order in which it asks for them.

    Args:
        convert: the conversion; it raises `MissingOption` at the first.
        options: as far as they are given.
    """
    missing: list[str] = []
    while True:
        try:
            convert(options)
        except MissingOption as error:
            (name,) = error.names
            missing.append(name)
            options = replace(options, **{name: _STAND_INS[name]})
        except ModelError:
            return missing  # a stand-in does not fit these weights
        else:
            return missing


def with_options(convert: Callable[[ModelOptions], _T], options: ModelOptions) -> _T:
    """Convert with these options; of those that are missing, name all at once.

    Raises:
        MissingOption: some are missing; it names all of them.
        ModelError: anything else that is wrong.
    """
    try:
        return convert(options)
    except MissingOption as error:
        raise MissingOption(missing_options(convert, options)) from error


def _and(parts: Sequence[str]) -> str:
    """Words with commas and `and` between."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
