"""Event-camera frames to network inputs: integrated frames are taken without any change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError, PreprocessingError

__all__ = ["FrameSteps", "read_frames"]

_ARRAY = "frames"


@dataclass(frozen=True)
class FrameSteps:
    """Sequences of T frames, given to the network without resize or normalisation.

    Attributes:
        timesteps: number of frames, T.
        channels: channels of a frame, usually two polarities.
        height: height of a frame, in pixels.
        width: width of a frame, in pixels.

    Raises:
        PreprocessingError: a value is not a whole number of 1 or more.
    """

    timesteps: int
    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check all fields; see the class."""
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise PreprocessingError(
                    f"{name}: found {value!r}, expected a whole number, 1 or more; correct it"
                )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> FrameSteps:
        """Make one from what `to_dict` gives; raises PreprocessingError."""
        names = {field.name for field in fields(cls)}
        if set(d) != names | {"kind"}:
            raise PreprocessingError(
                f"preprocessing: found the keys {sorted(map(str, d))}, expected "
                f"{sorted(names | {'kind'})}; correct it"
            )
        return cls(**{name: d[name] for name in names})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {"kind": "frames", **asdict(self)}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W)."""
        return (self.timesteps, self.channels, self.height, self.width)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sequence at 4 bytes a value."""
        return 4 * self.timesteps * self.channels * self.height * self.width

    def apply(self, frames: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """One sequence `[T, C, H, W]`, numbers of any kind, as float32.

        Raises:
            PreprocessingError: another shape, or no finite numbers.
        """
        result: npt.NDArray[np.float32] = self.normalise(self.crop_batch(frames[None]))[0]
        return result

    def crop_batch(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Check sequences `[n, T, C, H, W]` and return them unchanged.

        Raises:
            PreprocessingError: as `apply`.
        """
        if frames.shape[1:] != self.shape or frames.dtype.kind not in "buif":
            raise PreprocessingError(
                f"found frames {frames.dtype} {list(frames.shape[1:])}, expected numbers "
                f"[T, C, H, W] = {list(self.shape)}: integrate the events to that many frames"
            )
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            raise PreprocessingError("the frames hold NaN or infinity: mend the recording")
        return frames

    def normalise(self, frames: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Checked sequences as float32 `[n, T, C, H, W]`."""
        return frames.astype(np.float32)


def read_frames(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read event frames: the array of an `.npy`, or the array `frames` of an `.npz`.

    SpikingJelly's data sets write the latter.

    Args:
        path: the file.

    Returns:
        The array as it is stored, [T, C, H, W] for `FrameSteps` to accept it.

    Raises:
        ImageError: no such file or array; the message starts with the path.
    """
    name = os.fspath(path)
    try:
        content = np.load(name, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if _ARRAY not in content.files:
                raise ImageError(
                    f"{name}: found the arrays {sorted(content.files)}, expected one called "
                    f"{_ARRAY!r}"
                )
            array: npt.NDArray[Any] = content[_ARRAY]
            return array
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file; check the path") from error
    except ImageError:
        raise
    except Exception as error:  # a damaged archive raises nearly everything
        raise ImageError(
            f"{name}: found no complete array, expected event frames in an .npy or .npz"
        ) from error
