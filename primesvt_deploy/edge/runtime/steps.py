"""Steps from a file to a network's input, for images and for event frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from .errors import DeployError, PreprocessingError, on_one_line
from .frames import FrameSteps, read_frames
from .images import read_image
from .preprocess import Preprocessing

__all__ = ["InputSteps", "prepare_file", "read_sample", "steps_from_dict"]

InputSteps = Preprocessing | FrameSteps


def steps_from_dict(d: Mapping[str, Any]) -> InputSteps:
    """Make preprocessing from what `to_dict` of either class gives.

    Raises:
        PreprocessingError: a key is missing or unknown, or a value is not valid.
    """
    if isinstance(d, Mapping) and d.get("kind") == "frames":
        return FrameSteps.from_dict(d)
    return Preprocessing.from_dict(d)


def read_sample(
    steps: InputSteps, path: str | os.PathLike[str], *, upright: bool
) -> npt.NDArray[Any]:
    """Read an image or a sequence of event frames from a file.

    Args:
        steps: preprocessing, of which the class says which of the two is expected.
        path: the file.
        upright: turn an image as its EXIF orientation says.

    Returns:
        Samples of the network's channels, uint8 [H, W, 3] (RGB) or [H, W, 1] (grey), or frames
        [T, C, H, W], numbers of any kind.

    Raises:
        ImageError: the file cannot be read; the message is one line that starts with the path.
        PreprocessingError: it holds frames that do not fit.
    """
    if isinstance(steps, FrameSteps):
        return read_frames(path, steps)
    return read_image(path, upright=upright, grey=steps.channels == 1)


def prepare_file(steps: InputSteps, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The network's input for a user's file; an image is turned as its EXIF orientation says.

    A phone stores a photo as its sensor lies, and in EXIF how to turn it: shown upright, as every
    viewer shows it, it is what the network was trained to classify.

    Args:
        steps: preprocessing of the network.
        path: an image file, or an `.npy` or `.npz` of event frames.

    Returns:
        float32 [channels, height, width], or [T, C, H, W]; uint8 [channels, height, width] where
        the network takes pixels; without the batch axis.

    Raises:
        DeployError: the file cannot be read, or does not fit; one line that starts with the path.
    """
    try:
        return steps.apply(read_sample(steps, path, upright=True))
    except PreprocessingError as error:
        raise DeployError(f"{on_one_line(os.fspath(path))}: {error}") from error
