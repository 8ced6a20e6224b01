"""What a JPEG's coefficients become: samples, full-size planes, colours.

Bit for bit as libjpeg-turbo computes them: the islow IDCT (Loeffler, Ligtenberg and
Moschytz 1989), "fancy" upsampling and the integer colour conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Component", "Plane", "to_rgb"]

Plane = npt.NDArray[np.uint8]


def _zigzag() -> npt.NDArray[np.intp]:
    """Zigzag position of each coefficient, stored column by column (T.81, figure A.6)."""
    cells = [(row, column) for row in range(8) for column in range(8)]
    # Diagonals in turn; odd ones run downwards, even ones upwards.
    cells.sort(key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))
    order = np.empty(64, np.intp)
    for position, (row, column) in enumerate(cells):
        order[column * 8 + row] = position
    return order


_ZIGZAG = _zigzag()


def _idct_matrix() -> npt.NDArray[np.float64]:
    """Build the islow 1-D IDCT as an [output, input] matrix of integers scaled by 2**13.

    The factorisation of Loeffler, Ligtenberg and Moschytz (1989) with 13-bit constants,
    multiplied out: before its final rounding it is linear over the integers, so the
    rounded constants of the fast form add up to exactly these entries.
    """
    even = np.array(  # rows: sums for outputs 0..3; columns: inputs 0, 2, 4, 6
        [
            [8192, 10703, 8192, 4433],
            [8192, 4433, -8192, -10704],
            [8192, -4433, -8192, 10704],
            [8192, -10703, 8192, -4433],
        ]
    )
    odd = np.array(  # columns: inputs 1, 3, 5, 7
        [
            [11363, 9633, 6437, 2260],
            [9633, -2259, -11362, -6436],
            [6437, -11362, 2261, 9633],
            [2260, -6436, 9633, -11363],
        ]
    )
    matrix = np.empty((8, 8))
    matrix[:4, 0::2], matrix[:4, 1::2] = even, odd
    matrix[7:3:-1, 0::2], matrix[7:3:-1, 1::2] = even, -odd
    return matrix


_IDCT = _idct_matrix()


def _inverse_dct(blocks: npt.NDArray[np.int16], quantiser: npt.NDArray[np.float64]) -> Plane:
    """Dequantise and transform zigzag blocks [n, 64] to uint8 samples [n, 8, 8]."""
    samples = np.empty((len(blocks), 8, 8), np.uint8)
    for start in range(0, len(blocks), 4096):  # bounds the memory for the float64 steps
        part = blocks[start : start + 4096]
        # float64 holds all these integers exactly and has a fast matrix product.
        columns = (part * quantiser)[:, _ZIGZAG].reshape(-1, 8)
        half = np.floor(columns @ _IDCT.T * 2.0**-11 + 0.5)
        rows = half.reshape(-1, 8, 8).swapaxes(1, 2).reshape(-1, 8)
        full = np.floor(rows @ _IDCT.T * 2.0**-18 + 128.5)
        samples[start : start + 4096] = np.clip(full, 0, 255).reshape(-1, 8, 8)
    return samples


def _blend(samples: npt.NDArray[np.int32], axis: int) -> tuple[npt.NDArray[np.int32], ...]:
    """3/4 own + 1/4 neighbour sums (times 4), before and after each sample along `axis`."""
    last = samples.shape[axis] - 1
    index = np.arange(last + 1)
    before = samples.take(np.maximum(index - 1, 0), axis)  # edges replicate
    after = samples.take(np.minimum(index + 1, last), axis)
    return 3 * samples + before, 3 * samples + after


def _upsample(plane: Plane, down: int, across: int) -> Plane:
    """Upsample as libjpeg-turbo does: triangle filter for factors of 2, else replication."""
    smooth = across == 1 or (across == 2 and plane.shape[1] > 2)
    if (down, across) == (1, 1):
        return plane
    if down > 2 or not smooth:
        return plane.repeat(down, 0).repeat(across, 1)
    rows, columns = plane.shape
    fine = np.empty((rows, down, columns, across), np.int32)
    wide = plane.astype(np.int32)
    if across == 1:
        above, below = _blend(wide, 0)
        fine[:, 0, :, 0], fine[:, 1, :, 0] = (above + 1) >> 2, (below + 2) >> 2
    elif down == 1:
        left, right = _blend(wide, 1)
        fine[:, 0, :, 0], fine[:, 0, :, 1] = (left + 1) >> 2, (right + 2) >> 2
    else:
        for half, sums in enumerate(_blend(wide, 0)):
            left, right = _blend(sums, 1)
            fine[:, half, :, 0], fine[:, half, :, 1] = (left + 8) >> 4, (right + 7) >> 4
    return fine.reshape(rows * down, columns * across).astype(np.uint8)


def _ycc_to_rgb(luma: Plane, blue: Plane, red: Plane) -> Plane:
    """Convert to RGB [H, W, 3] by JFIF's equations in 16-bit fixed point."""
    chroma = np.arange(-128, 128, dtype=np.int32)
    half = 1 << 15
    y = luma.astype(np.int32)
    green = (-22554 * chroma + half)[blue] + (-46802 * chroma)[red]
    rgb = np.empty((*luma.shape, 3), np.uint8)
    rgb[..., 0] = np.clip(y + ((91881 * chroma + half) >> 16)[red], 0, 255)
    rgb[..., 1] = np.clip(y + (green >> 16), 0, 255)
    rgb[..., 2] = np.clip(y + ((116130 * chroma + half) >> 16)[blue], 0, 255)
    return rgb


@dataclass
class Component:
    """A colour component of the frame and, once its scan is read, its samples.

    Args:
        identifier: by which scans name it.
        horizontal, vertical: sampling factors.
        quantiser: number of its quantisation table.
        height, width: samples; set by `fit`, as are the next two.
        down, across: how many rows and columns of the image a sample stands for.
        plane: the samples.
    """

    identifier: int
    horizontal: int
    vertical: int
    quantiser: int
    height: int = 0
    width: int = 0
    down: int = 1
    across: int = 1
    plane: Plane | None = None

    def fit(self, height: int, width: int, down: int, across: int) -> None:
        """Take on the size that an image of `height` x `width` asks of it."""
        self.down, self.across = down, across
        self.height, self.width = -(-height // down), -(-width // across)

    def transform(self, blocks: npt.NDArray[np.int16], quantiser: npt.NDArray[np.float64]) -> None:
        """Turn zigzag blocks [MCU rows, MCU columns, v, h, 64] into samples."""
        rows, columns, v, h, _ = blocks.shape
        samples = _inverse_dct(blocks.swapaxes(1, 2).reshape(-1, 64), quantiser)
        tiles = samples.reshape(rows * v, columns * h, 8, 8).swapaxes(1, 2)
        self.plane = tiles.reshape(rows * v * 8, columns * h * 8)[: self.height, : self.width]


def to_rgb(components: Sequence[Component], height: int, width: int, *, ycc: bool) -> Plane:
    """Bring the components to full size and convert them to RGB [height, width, 3].

    Args:
        components: one (grey) or three, each with its samples.
        height: of the image.
        width: of the image.
        ycc: three components are YCbCr rather than RGB.
    """
    planes = [
        _upsample(c.plane, c.down, c.across)[:height, :width]
        for c in components
        if c.plane is not None
    ]
    if len(planes) == 1:
        return np.repeat(planes[0][..., None], 3, axis=2)
    return _ycc_to_rgb(*planes) if ycc else np.stack(planes, axis=2)
