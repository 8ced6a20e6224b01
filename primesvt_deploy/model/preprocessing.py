"""Preprocessing steps between an image, or event frames, and a model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.input_defaults import GREY_STATISTICS, InputDefaults

__all__ = ["InputOptions", "default_note", "input_steps"]

GREY, RGB = 1, 3


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Evaluation preprocessing that the user chooses; None: the family's default.

    Args:
        mean: mean of each channel, subtracted from values in 0..1.
        std: standard deviation of each channel, by which values are then divided.
        resize: length that the shorter side is resized to before the centre crop, pixels.
        interpolation: `bicubic` or `bilinear`.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    resize: int | None = None
    interpolation: str | None = None


def input_steps(
    defaults: InputDefaults, config: NetworkConfig, options: InputOptions
) -> InputSteps:
    """Steps from an image, or event frames, to a network's input.

    Args:
        defaults: used where `options` has None.
        config: of the network.
        options: chosen by the user.

    Raises:
        ModelError: the network takes neither frames nor RGB or grey images, it takes frames and
            `options` has normalisation or resizing for images, or numbers for other channels.
    """
    channels, size, _ = config.input_shape
    if config.frames:
        given = [name for name, value in vars(options).items() if value is not None]
        if given:
            raise ModelError(f"event frames are taken as they are: drop --{given[0]}")
        return FrameSteps(config.timesteps, channels, size, size)
    if channels not in (GREY, RGB):
        raise ModelError(
            f"the model takes {channels} channels: expected {RGB} (RGB images) or {GREY} (grey "
            "ones); pass --frames if its input is event frames"
        )
    for name, values in (("mean", options.mean), ("std", options.std)):
        if values is not None and len(values) != channels:
            raise ModelError(
                f"--{name} has {len(values)} numbers: expected {channels}, one for each channel "
                "of the model's input"
            )
    mean, std = defaults.statistics(size, channels)
    return Preprocessing(
        height=size,
        width=size,
        resize=defaults.resize(size) if options.resize is None else options.resize,
        interpolation=options.interpolation or defaults.interpolation,
        mean=tuple(mean if options.mean is None else options.mean),
        std=tuple(std if options.std is None else options.std),
    )


def default_note(config: NetworkConfig, options: InputOptions) -> str:
    """Note on a mean and deviation that nobody gave and no family has; "" where there are."""
    given = options.mean is not None and options.std is not None
    if config.frames or config.in_channels != GREY or given:
        return ""
    return (
        f"grey values are normalised by the mean {GREY_STATISTICS[0][0]} and the deviation "
        f"{GREY_STATISTICS[1][0]} where none is given: pass --mean and --std of the training"
    )
