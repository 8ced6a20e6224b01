"""Products of count bytes and weight bytes, and the windows of pixels that convolutions need.

A product is one `com.microsoft.MatMulIntegerToFloat` (u8 times s8, with scale and bias), or, in
standard operators, MatMulInteger, Cast, Mul and Add: the same numbers, as long as they are exact
(`lowering.grid`). Windows are gathered by index from `[N, H * W, C]` bytes, one operator where
slices and their concatenation take twice as long (`benchmarks/results/alternatives.json`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.lif_operators import Constants, Tape

__all__ = ["CONTRIB", "Products", "Window", "window_of"]

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution: (height, width) each; `pads` begin with top, left.

    Args:
        size: of the input.
        channels: of the input.
        kernel, strides, dilations, pads, groups: as in ONNX.
    """

    size: tuple[int, int]
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int

    @property
    def is_pixel(self) -> bool:
        """A window of one pixel at every place."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def padded(self) -> tuple[int, int]:
        """Size with padding."""
        top, left, bottom, right = self.pads
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the output."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        rows, columns = (
            (whole - span) // stride + 1
            for whole, span, stride in zip(self.padded, spans, self.strides, strict=True)
        )
        return rows, columns

    def corners(self) -> npt.NDArray[np.int32]:
        """Index of each window's first pixel in the padded image, `[places, 1]`."""
        rows, columns = (np.arange(n) * s for n, s in zip(self.places, self.strides, strict=True))
        whole = rows[:, None] * self.padded[1] + columns[None]
        return whole.reshape(-1, 1).astype(np.int32)

    def offsets(self) -> npt.NDArray[np.int32]:
        """Index of a window's pixels from its first one, `[1, pixels]`."""
        rows, columns = (np.arange(k) * d for k, d in zip(self.kernel, self.dilations, strict=True))
        whole = rows[:, None] * self.padded[1] + columns[None]
        return whole.reshape(1, -1).astype(np.int32)


def window_of(node: ir.Node) -> Window | None:
    """Geometry of a 2-d Conv node; None if it is not 2-d, or its padding is not explicit."""
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None and weight is not None
    shape, kernel = source.shape, weight.shape
    if shape is None or kernel is None or len(shape) != 4 or len(kernel) != 4:
        return None
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    given: dict[str, Any] = {name: a.value for name, a in node.attributes.items()}
    if len(sizes) != 3 or given.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    height, width = (int(size) for size in kernel[2:])  # type: ignore[arg-type]
    return Window(
        size=(sizes[1], sizes[2]),
        channels=sizes[0],
        kernel=(height, width),
        strides=_pair(given.get("strides", (1, 1))),
        dilations=_pair(given.get("dilations", (1, 1))),
        pads=(top, left, bottom, right),
        groups=int(given.get("group", 1)),
    )


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


class Products:
    """Makes products and windows.

    Args:
        constants: initializers of the graph.
        standard: standard ONNX operators only.
    """

    def __init__(self, constants: Constants, *, standard: bool) -> None:
        self._constants = constants
        self._standard = standard
        self._indices: dict[Window, ir.Value] = {}

    def windows(self, tape: Tape, counts: ir.Value, window: Window, step: int) -> ir.Value:
        """`[N, H, W, C]` to `[N, H', W', kernel pixels * C]`, bytes both."""
        if window.is_pixel:
            return counts
        if any(window.pads):
            top, left, bottom, right = window.pads
            pads = np.asarray([0, top, left, 0, 0, bottom, right, 0], dtype=np.int64)
            name = "pads." + ".".join(map(str, window.pads))
            counts = tape.one("Pad", f"pad.t{step}", counts, self._constants.array(pads, name))
        pixels = window.padded[0] * window.padded[1]
        flat = self._shape(0, pixels, window.channels)
        counts = tape.one("Reshape", f"pixels.t{step}", counts, flat)
        indices = self._window_indices(tape, window)
        gathered = tape.one("Gather", f"windows.t{step}", counts, indices, axis=1)
        length = window.kernel[0] * window.kernel[1] * window.channels
        rows = self._shape(0, *window.places, length)
        return tape.one("Reshape", f"rows.t{step}", gathered, rows)

    def product(
        self,
        tape: Tape,
        rows: ir.Value,
        codes: ir.Value,
        scales: npt.NDArray[np.float32],
        biases: npt.NDArray[np.float32] | None,
        step: int,
        *,
        exact: bool,
    ) -> ir.Value:
        """`rows @ codes * scales + biases`, float32.

        Args:
            tape: nodes go there.
            rows: `[..., K]` counts.
            codes: `[K, N]` int8.
            scales: `[N]`.
            biases: `[N]` or None.
            step: names the nodes.
            exact: scale and bias may be applied at once, as no rounding comes in between.
        """
        scale = self._constants.array(scales, f"{tape.layer}.scale{step}")
        bias = None
        if biases is not None:
            bias = self._constants.array(biases, f"{tape.layer}.bias{step}")
        name = f"current.t{step}"
        if not self._standard:
            one = self._constants.scalar(1.0)
            inputs = [rows, codes, one, scale, *([None, None, bias] if exact and bias else [])]
            result = tape.add(
                "MatMulIntegerToFloat",
                name if exact or not bias else f"product.t{step}",
                inputs,
                [name if exact or not bias else f"product.t{step}"],
                domain=CONTRIB,
            )[0]
            return result if exact or not bias else tape.one("Add", name, result, bias)
        sums = tape.one("MatMulInteger", f"sums.t{step}", rows, codes)
        values = tape.one("Cast", f"values.t{step}", sums, to=ir.DataType.FLOAT)
        if bias is None:
            return tape.one("Mul", name, values, scale)
        return tape.one("Add", name, tape.one("Mul", f"scaled.t{step}", values, scale), bias)

    def _window_indices(self, tape: Tape, window: Window) -> ir.Value:
        """`[places, pixels]`, a sum of two small constants rather than a large one in the file."""
        key = Window(
            window.size, 0, window.kernel, window.strides, window.dilations, window.pads, 1
        )
        if key not in self._indices:
            number = len(self._indices)
            corners = self._constants.array(window.corners(), f"windows.{number}.corners")
            offsets = self._constants.array(window.offsets(), f"windows.{number}.offsets")
            self._indices[key] = tape.one("Add", "indices", corners, offsets)
        return self._indices[key]

    def _shape(self, *sizes: int) -> ir.Value:
        name = "shape." + "x".join(map(str, sizes))
        return self._constants.array(np.asarray(sizes, dtype=np.int64), name)
