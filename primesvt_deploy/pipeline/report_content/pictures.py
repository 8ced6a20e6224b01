"""Samples of a data set as small pictures, in `data:` URLs that a page can show."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from primesvt_deploy.data.images import ImageList

__all__ = ["picture"]

_LOSSLESS = 64
"""Pixels of the longer side up to which a picture is PNG; larger photographs are JPEG."""
_QUALITY = 85
_FRAME_AXES = 4
_EVENT_COLOURS = np.array([[1.0, 0.3, 0.1], [0.1, 0.5, 1.0]])
"""RGB of the two polarities of an event camera."""


def picture(images: ImageList, index: int, *, most: int) -> str:
    """A sample as the network sees it, resized and cropped, as a `data:` URL.

    Args:
        images: the images.
        index: of the sample among them.
        most: pixels of its longer side at most; smaller ones are not enlarged.
    """
    sample = images.samples(index, index + 1)[0]
    pixels = _of_frames(sample) if sample.ndim == _FRAME_AXES else sample
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((most, most))
    small = max(image.size) <= _LOSSLESS
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", quality=_QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if small else 'jpeg'};base64,{content}"


def _of_frames(frames: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Event frames `[T, C, H, W]` as uint8 `[H, W, 1 or 3]`: the mean over time.

    The largest mean is white; of two polarities one is red and the other blue, and more channels
    are summed.
    """
    mean = np.moveaxis(np.abs(frames.astype(np.float64)).mean(axis=0), 0, -1)
    coloured = mean @ _EVENT_COLOURS if mean.shape[-1] == len(_EVENT_COLOURS) else mean
    if coloured.shape[-1] not in (1, 3):
        coloured = coloured.sum(axis=-1, keepdims=True)
    scaled = 255.0 * coloured / max(coloured.max(), np.finfo(np.float64).tiny)
    return np.asarray(scaled.round(), dtype=np.uint8)
