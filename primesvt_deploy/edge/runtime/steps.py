"""The steps between a file and a network's input, of either kind: an image or event frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeployError, PreprocessingError
from .frames import FrameSteps, read_frames
from .images import read_image
from .preprocess import Preprocessing

__all__ = ["InputSteps", "prepare_file", "read_sample", "steps_from_dict"]

InputSteps = Preprocessing | FrameSteps


def steps_from_dict(d: Mapping[str, Any]) -> InputSteps:
    """The inverse of either kind's `to_dict`; raises PreprocessingError."""
    if isinstance(d, Mapping) and d.get("kind") == "frames":
        return FrameSteps.from_dict(d)
    return Preprocessing.from_dict(d)


def read_sample(steps: InputSteps, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """What the file at `path` holds, as `steps` take it; raises ImageError."""
    return read_frames(path) if isinstance(steps, FrameSteps) else read_image(path)


def prepare_file(steps: InputSteps, path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """The network's input, without its batch axis, for the file at `path`.

    Raises:
        DeployError: the file cannot be read, or does not fit; one line that starts with the path.
    """
    sample = read_sample(steps, path)
    try:
        return steps.apply(sample)
    except PreprocessingError as error:
        raise DeployError(f"{os.fspath(path)}: {error}") from error
