"""Event-camera frames to network inputs: integrated frames are taken without any change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import ArrayFile
from .errors import ImageError, PreprocessingError, on_one_line
from .files import reason_of

__all__ = ["FrameSteps", "read_frames"]

_ARRAY = "frames"
_SHOWN = 12
"""Most names of arrays in a message."""


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
    def sample_shape(self) -> tuple[int, ...]:
        """(T, C, H, W) of the network's input."""
        return self.shape

    @property
    def sample_dtype(self) -> np.dtype[Any]:
        """Type of the network's input."""
        return np.dtype(np.float32)

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
        self.check_form(frames.shape, frames.dtype)
        with np.errstate(over="ignore"):
            finite = frames.dtype.kind != "f" or np.isfinite(frames.astype(np.float32)).all()
        if not finite:
            raise PreprocessingError(
                "the frames hold NaN, infinity or numbers beyond float32: mend the recording"
            )
        return frames

    def check_form(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Check shape [n, T, C, H, W] and type of sequences, before they are read.

        Raises:
            PreprocessingError: another shape, or no numbers.
        """
        if not shape or shape[1:] != self.shape or dtype.kind not in "buif":
            raise PreprocessingError(
                f"found frames {dtype} {list(shape[1:])}, expected numbers "
                f"[T, C, H, W] = {list(self.shape)}: integrate the events to that many frames"
            )

    def normalise(self, frames: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Checked sequences as float32 `[n, T, C, H, W]`."""
        return frames.astype(np.float32)


def read_frames(path: str | os.PathLike[str], steps: FrameSteps | None = None) -> npt.NDArray[Any]:
    """Read event frames: the array of an `.npy`, or the array `frames` of an `.npz`.

    SpikingJelly's data sets write the latter.

    Args:
        path: the file.
        steps: refuse frames that do not fit these before they are read; None: read any.

    Returns:
        The array as it is stored, [T, C, H, W] for `FrameSteps` to accept it.

    Raises:
        ImageError: no such file or array; the message starts with the path.
        PreprocessingError: another shape than that of `steps`, or no numbers.
    """
    name = on_one_line(os.fspath(path))
    try:
        with ArrayFile(path) as file:
            chosen = _ARRAY if "" not in file.names else ""
            if chosen not in file.names:
                found = sorted(file.names)
                raise ImageError(
                    f"{name}: found the arrays {found[:_SHOWN]}"
                    f"{', ...' if len(found) > _SHOWN else ''}, expected one called {_ARRAY!r}"
                )
            if steps is not None:
                shape, dtype = file.shape_and_dtype(chosen)
                steps.check_form((1, *shape), dtype)
            return file.read(chosen)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file; check the path") from error
    except MemoryError as error:
        raise ImageError(f"{name}: found more frames than fit into memory; cut them") from error
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: found no complete array ({reason_of(error)}), expected event frames in an "
            ".npy or .npz"
        ) from error
