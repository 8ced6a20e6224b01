"""Image arrays to network inputs, as torchvision and timm evaluate: resize, crop, normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import PreprocessingError
from .pixel_limit import max_pixels

__all__ = ["Preprocessing", "resize"]

_CHANNELS = (1, 3)
_MAX_SIDE = 65_535
_INTERPOLATIONS = ("bilinear", "bicubic")
_PIXELS = "pixels"


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation in front of a network.

    An image is resized so that its shorter side is `resize` (antialiased, as Pillow
    does it; not at all where it has that size), its centre of `height` x `width` is cut
    out, and each channel becomes (value / 255 - mean) / std in float32, unless `pixels`.

    Attributes:
        height: height of the network's input, in pixels.
        width: width of the network's input, in pixels.
        resize: length of the shorter side before the crop, at least height and width.
        interpolation: "bilinear" or "bicubic".
        mean: mean of each channel, for values in 0..1: three (R, G, B), or one of a network that
            takes grey images.
        std: standard deviation of each channel, at least 1e-6.
        pixels: nothing is divided or normalised: the network takes the pixels as they are, uint8,
            and has mean and deviation in its first layer.

    Raises:
        PreprocessingError: a value is of the wrong type or out of range.
    """

    height: int
    width: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: bool = False

    def __post_init__(self) -> None:
        """Check all fields; see the class."""
        for name in ("height", "width", "resize"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise _bad(name, value, "a whole number of pixels")
            if not 1 <= value <= _MAX_SIDE:
                raise _bad(name, value, f"a number of pixels from 1 to {_MAX_SIDE}")
        if self.resize < max(self.height, self.width):
            expected = f"at least height and width ({self.height}x{self.width}): no padding is done"
            raise _bad("resize", self.resize, expected)
        if self.interpolation not in _INTERPOLATIONS:
            raise _bad("interpolation", self.interpolation, " or ".join(_INTERPOLATIONS))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise PreprocessingError(
                f"mean and std: found {len(self.mean)} and {len(self.std)} numbers, expected one a "
                "channel of each; correct them"
            )
        if min(self.std) < 1e-6:
            raise _bad("std", self.std, "numbers from 1e-6")
        if not isinstance(self.pixels, bool):
            raise _bad("pixels", self.pixels, "true or false")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Preprocessing:
        """Make one from what `to_dict` gives (or JSON made of it).

        Raises:
            PreprocessingError: a key is missing or unknown, or a value is not valid.
        """
        names = {field.name for field in fields(cls)} - {_PIXELS}
        if not isinstance(d, Mapping) or set(d) - {_PIXELS} != names:
            found = sorted(map(str, d)) if isinstance(d, Mapping) else type(d).__name__
            raise _bad("preprocessing", found, f"a mapping with the keys {sorted(names)}")
        return cls(**d)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values (lists for tuples); `pixels` only where it is true."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        return values if self.pixels else {k: v for k, v in values.items() if k != _PIXELS}

    @property
    def channels(self) -> int:
        """Channels of an image: 3 (RGB), or 1 (grey)."""
        return len(self.mean)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the network's input."""
        return (self.channels, self.height, self.width)

    @property
    def sample_dtype(self) -> np.dtype[Any]:
        """Type of the network's input: uint8 for pixels, else float32."""
        return np.dtype(np.uint8 if self.pixels else np.float32)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one image, cropped."""
        return self.channels * self.height * self.width

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Prepare one image.

        Args:
            image: RGB or grey samples, uint8 [H, W, channels], of any size.

        Returns:
            float32 [channels, height, width]; uint8 if `pixels`.

        Raises:
            PreprocessingError: the image has another shape or type, would become too large
                when resized, or is to be resized and Pillow is not installed.
            ImageError: the environment's limit of pixels is none.
        """
        _check(image, 3, self.channels)
        result: npt.NDArray[Any] = self.apply_batch(image[None])[0]
        return result

    def apply_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Prepare images of one size; bit for bit what `apply` gives for each.

        Args:
            images: RGB or grey samples, uint8 [n, H, W, channels].

        Returns:
            float32 [n, channels, height, width]; uint8 if `pixels`.

        Raises:
            PreprocessingError: as `apply`.
        """
        return self.normalise(self.crop_batch(images))

    def crop_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize and crop images of one size, the first half of `apply_batch`.

        Args:
            images: RGB or grey samples, uint8 [n, H, W, channels].

        Returns:
            uint8 [n, height, width, channels].

        Raises:
            PreprocessingError: as `apply`.
        """
        _check(images, 4, self.channels)
        rows, columns = self._resized(*images.shape[1:3])
        top, left = _offset(rows, self.height), _offset(columns, self.width)
        cut = (slice(top, top + self.height), slice(left, left + self.width))
        if (rows, columns) == images.shape[1:3]:
            return images[:, cut[0], cut[1]]
        out = np.empty((len(images), self.height, self.width, self.channels), np.uint8)
        for index, image in enumerate(images):
            out[index] = resize(image, rows, columns, self.interpolation)[cut]
        return out

    def _resized(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width after the resize, as torchvision.transforms.Resize rounds them."""
        short, long = sorted((rows, columns))
        longer = int(self.resize * long / short)
        most = max_pixels()
        if self.resize * longer > most:
            raise PreprocessingError(
                f"found an image of {columns}x{rows} pixels, expected one that has at most "
                f"{most} when its shorter side is {self.resize}; crop it first"
            )
        return (longer, self.resize) if rows > columns else (self.resize, longer)

    def normalise(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Turn cropped images, uint8 [n, height, width, channels], into the network's input.

        Returns:
            float32 [n, channels, height, width]; uint8, and nothing is normalised, if `pixels`.

        Raises:
            PreprocessingError: images of another shape or type.
        """
        _check(images, 4, self.channels)
        if self.pixels:
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        n, height, width, _ = images.shape
        out = np.empty((n, self.channels, height, width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = (values - np.float32(mean)) / np.float32(std)
            out[:, channel] = table[images[..., channel]]
        return out


def resize(
    image: npt.NDArray[np.uint8], height: int, width: int, interpolation: str
) -> npt.NDArray[np.uint8]:
    """Resize by Pillow, to the same pixels with any version of it.

    The kernel widens when shrinking, so the result is antialiased. Pillow resizes along one axis
    after the other, rounding to 8 bits between them: horizontally first, except, from version 13,
    where the height shrinks by more than twice what the width does. Here each axis is a call of
    its own, in the order of version 13, so that older ones give the same.

    Args:
        image: RGB or grey samples, uint8 [H, W, 3] or [H, W, 1].
        height: of the result, in pixels.
        width: of the result, in pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        uint8 [height, width, 3 or 1].

    Raises:
        PreprocessingError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise PreprocessingError(
            f"found no Pillow to resize an image with ({error}), expected Pillow 10 or newer; "
            "pip install pillow"
        ) from None
    rows, columns, channels = image.shape
    samples = image[..., 0] if channels == 1 else image
    resized, kernel = Image.fromarray(samples), Image.Resampling[interpolation.upper()]
    # Observed in Pillow 13.0.0, not documented there.
    height_first = height < rows and 2 * (columns - width) < rows - height
    resized = resized.resize((columns, height) if height_first else (width, rows), kernel)
    return np.array(resized.resize((width, height), kernel)).reshape(height, width, channels)


def _offset(size: int, crop: int) -> int:
    return round((size - crop) / 2.0)  # halves to even, as torchvision's CenterCrop


def _check(images: Any, ndim: int, channels: int) -> None:
    """Raise unless `images` is a uint8 array of `ndim` axes that ends with [H, W, channels]."""
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == ndim
    if not fits or images.shape[-1] != channels or 0 in images.shape[-3:]:
        found, advice = type(images).__name__, "convert the image first"
        if isinstance(images, np.ndarray):
            found = f"an array {images.dtype} {list(images.shape)}"
            if images.dtype.kind == "f":
                advice = "of values in 0..1, pass np.rint(255 * image).astype(np.uint8)"
        kind = "grey" if channels == 1 else "RGB"
        axes = f"[H, W, {channels}]" if ndim == 3 else f"[n, H, W, {channels}]"
        raise PreprocessingError(f"found {found}, expected {kind} samples uint8 {axes}; {advice}")


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """Check numbers, one a channel, and return them as floats."""
    if isinstance(value, tuple | list) and len(value) in _CHANNELS:
        real = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        if real and all(-1e6 <= v <= 1e6 for v in value):  # false for NaN, too
            return tuple(float(v) for v in value)
    raise _bad(name, value, "3 numbers from -1e6 to 1e6, one a channel (1 of a grey image)")


def _bad(name: str, value: object, expected: str) -> PreprocessingError:
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    return PreprocessingError(f"{name}: found {shown}, expected {expected}; correct the value")
