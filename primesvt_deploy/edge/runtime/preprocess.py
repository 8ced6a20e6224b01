"""Image arrays to network inputs, as torchvision's and timm's evaluation does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import PreprocessingError
from .jpeg import MAX_PIXELS

__all__ = ["Preprocessing", "resize"]

_CHANNELS = 3
_MAX_SIDE = 65_535
_PRECISION_BITS = 32 - 8 - 2  # of Pillow's fixed-point weights
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation in front of a network.

    An image is resized so that its shorter side is `resize` (antialiased, as Pillow
    does it; not at all where it has that size), its centre of `height` x `width` is cut
    out, and each channel becomes (value / 255 - mean) / std in float32.

    Attributes:
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        resize: length of the shorter side before the crop, at least height and width.
        interpolation: "bilinear" or "bicubic".
        mean: per channel (R, G, B), for values in 0..1.
        std: per channel, from 1e-6.

    Raises:
        PreprocessingError: a value is of the wrong type or out of range.
    """

    height: int
    width: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

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
        if not isinstance(self.interpolation, str) or self.interpolation not in _SUPPORT:
            raise _bad("interpolation", self.interpolation, " or ".join(_SUPPORT))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if min(self.std) < 1e-6:
            raise _bad("std", self.std, "numbers from 1e-6")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Preprocessing:
        """Make one from what `to_dict` gives (or JSON made of it).

        Raises:
            PreprocessingError: a key is missing or unknown, or a value is not valid.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(d, Mapping) or set(d) != names:
            found = sorted(map(str, d)) if isinstance(d, Mapping) else type(d).__name__
            raise _bad("preprocessing", found, f"a mapping with the keys {sorted(names)}")
        return cls(**d)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values (lists for tuples)."""
        values = asdict(self)
        return values | {"mean": list(self.mean), "std": list(self.std)}

    @property
    def sample_bytes(self) -> int:
        """Bytes of one image, cropped."""
        return _CHANNELS * self.height * self.width

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Prepare one image.

        Args:
            image: RGB samples, uint8 [H, W, 3], of any size.

        Returns:
            float32 [3, height, width].

        Raises:
            PreprocessingError: the image has another shape or type, or would become
                too large when resized.
        """
        _check(image, 3)
        result: npt.NDArray[np.float32] = self.apply_batch(image[None])[0]
        return result

    def apply_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Prepare images of one size; bit for bit what `apply` gives for each.

        Args:
            images: RGB samples, uint8 [n, H, W, 3].

        Returns:
            float32 [n, 3, height, width].

        Raises:
            PreprocessingError: as `apply`.
        """
        return self.normalise(self.crop_batch(images))

    def crop_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize and crop images of one size, the first half of `apply_batch`.

        Args:
            images: RGB samples, uint8 [n, H, W, 3].

        Returns:
            uint8 [n, height, width, 3].

        Raises:
            PreprocessingError: as `apply`.
        """
        _check(images, 4)
        rows, columns = self._resized(*images.shape[1:3])
        top, left = _offset(rows, self.height), _offset(columns, self.width)
        cut = (slice(top, top + self.height), slice(left, left + self.width))
        if (rows, columns) == images.shape[1:3]:
            return images[:, cut[0], cut[1]]
        out = np.empty((len(images), self.height, self.width, _CHANNELS), np.uint8)
        for index, image in enumerate(images):
            out[index] = resize(image, rows, columns, self.interpolation)[cut]
        return out

    def _resized(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width after the resize, as torchvision.transforms.Resize rounds them."""
        short, long = sorted((rows, columns))
        longer = int(self.resize * long / short)
        if self.resize * longer > MAX_PIXELS:
            raise PreprocessingError(
                f"found an image of {columns}x{rows} pixels, expected one that has at most "
                f"{MAX_PIXELS} when its shorter side is {self.resize}; crop it first"
            )
        return (longer, self.resize) if rows > columns else (self.resize, longer)

    def normalise(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Cropped images, uint8 [n, height, width, 3], to float32 [n, 3, height, width]."""
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        n, height, width, _ = images.shape
        out = np.empty((n, _CHANNELS, height, width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = (values - np.float32(mean)) / np.float32(std)
            out[:, channel] = table[images[..., channel]]
        return out


def resize(
    image: npt.NDArray[np.uint8], height: int, width: int, interpolation: str
) -> npt.NDArray[np.uint8]:
    """Resize as the `Image.resize` of Pillow 13 does, to the last bit.

    The kernel widens when shrinking, so the result is antialiased. The horizontal pass
    comes first, except where the height shrinks by more than twice what the width does;
    each is in 22-bit fixed point, rounded and clipped. Pillow before 13 has no such
    exception: its results for images over twice as high as wide differ in the rounding.

    Args:
        image: uint8 [H, W, C].
        height: of the result.
        width: of the result.
        interpolation: "bilinear" or "bicubic" (Keys 1981, a = -0.5).

    Returns:
        uint8 [height, width, C].
    """
    rows, columns = image.shape[:2]
    passes = [(1, width), (0, height)]
    # Observed in Pillow 13.0.0, not documented there.
    if height < rows and 2 * (columns - width) < rows - height:
        passes.reverse()
    for axis, size in passes:
        if size != image.shape[axis]:
            turned = _resample(image.swapaxes(0, axis), size, interpolation)
            image = turned.swapaxes(0, axis)
    return image


def _resample(image: npt.NDArray[np.uint8], size: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Resample axis 0 to `size`: each result row is a weighted sum of a few rows."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    index, weights = _weights(len(image), size, interpolation)
    total = np.full((size, rows.shape[1]), 1 << (_PRECISION_BITS - 1), np.int32)
    for tap in range(index.shape[1]):
        total += rows[index[:, tap]] * weights[:, tap, None]
    result: npt.NDArray[np.uint8] = np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)
    return result.reshape((size, *image.shape[1:]))


@lru_cache(maxsize=64)
def _weights(
    source: int, size: int, interpolation: str
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """Source rows and fixed-point weights of each result row, both [size, taps]."""
    scale = source / size
    stretch = max(scale, 1.0)
    support = _SUPPORT[interpolation] * stretch
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    behind = np.minimum((centres + support + 0.5).astype(np.intp), source)
    index = first[:, None] + np.arange(int((behind - first).max()))
    values = _kernel((index - centres[:, None] + 0.5) * (1.0 / stretch), interpolation)
    values[index >= behind[:, None]] = 0.0
    # Summed from left to right, as in Pillow: another order may differ in the last bit.
    values /= np.cumsum(values, axis=1)[:, -1:]
    scaled = values * (1 << _PRECISION_BITS)
    weights = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    return np.minimum(index, source - 1), weights


def _kernel(x: npt.NDArray[np.float64], interpolation: str) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    a = -0.5
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _offset(size: int, crop: int) -> int:
    return round((size - crop) / 2.0)  # halves to even, as torchvision's CenterCrop


def _check(images: Any, ndim: int) -> None:
    """Raise unless `images` is a uint8 array of `ndim` axes that ends with [H, W, 3]."""
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == ndim
    if not fits or images.shape[-1] != _CHANNELS or 0 in images.shape[-3:]:
        found = type(images).__name__
        if isinstance(images, np.ndarray):
            found = f"an array {images.dtype} {list(images.shape)}"
        axes = "[H, W, 3]" if ndim == 3 else "[n, H, W, 3]"
        raise PreprocessingError(
            f"found {found}, expected RGB samples uint8 {axes}; convert the image first"
        )


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """Three numbers within float32's comfortable range as a tuple of floats."""
    if isinstance(value, tuple | list) and len(value) == _CHANNELS:
        real = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        if real and all(-1e6 <= v <= 1e6 for v in value):  # false for NaN, too
            return tuple(float(v) for v in value)
    raise _bad(name, value, f"{_CHANNELS} numbers from -1e6 to 1e6, one a channel")


def _bad(name: str, value: object, expected: str) -> PreprocessingError:
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    return PreprocessingError(f"{name}: found {shown}, expected {expected}; correct the value")
