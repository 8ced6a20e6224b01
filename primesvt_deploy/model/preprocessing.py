"""What stands between a user's data and a model's input: the steps, and the class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import InputDefaults
from primesvt_deploy.families.config import NetworkConfig

__all__ = ["InputOptions", "checked_labels", "input_steps"]


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Evaluation preprocessing as the user says it; None: the family's default.

    Args:
        mean: per channel, of inputs in 0..1.
        std: likewise.
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
    """From an RGB image, or event frames, to the input of a network with this configuration.

    Raises:
        ModelError: the network takes neither frames nor RGB images, or takes frames and the
            user says how to normalise images.
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


def checked_labels(labels: Sequence[str] | None, classes: int, path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits: those given, or `0`, `1`, ...

    Raises:
        ModelError: not one a class.
    """
    names = tuple(str(i) for i in range(classes)) if labels is None else tuple(labels)
    if len(names) != classes:
        raise ModelError(
            f"{path}: {len(names)} labels for a model of {classes} classes: give one a class"
        )
    return names
