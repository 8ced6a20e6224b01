"""Preprocessing steps between an image, or event frames, and a model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.input_defaults import InputDefaults

__all__ = ["InputOptions", "input_steps"]


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
    """Steps from an RGB image, or event frames, to a network's input.

    Args:
        defaults: used where `options` has None.
        config: of the network.
        options: chosen by the user.

    Raises:
        ModelError: the network takes neither frames nor RGB images, or it takes frames and
            `options` has normalisation or resizing for images.
    """
    channels, size, _ = config.input_shape
    if config.frames:
        given = [name for name, value in vars(options).items() if value is not None]
        if given:
            raise ModelError(f"event frames are taken as they are: drop --{given[0]}")
        return FrameSteps(config.timesteps, channels, size, size)
    if channels != 3:
        raise ModelError(
            f"the model takes {channels} channels: only RGB images (3) are supported; pass "
            "--frames if its input is event frames"
        )
    mean, std = defaults.statistics(size)
    return Preprocessing(
        height=size,
        width=size,
        resize=defaults.resize(size) if options.resize is None else options.resize,
        interpolation=options.interpolation or defaults.interpolation,
        mean=tuple(mean if options.mean is None else options.mean),
        std=tuple(std if options.std is None else options.std),
    )
