"""Matrix products of spike counts and weight codes, and the windows that convolutions need.

A product is one `com.microsoft.MatMulIntegerToFloat` (u8 times s8, with scale and bias), or, in
standard operators, MatMulInteger, Cast, Mul and Add: the same numbers, as long as they are exact
(`integer.weight_grid`). Windows are gathered by index from `[N, H * W, C]` bytes, one operator
where slices and their concatenation take twice as long (`benchmarks/results/alternatives.json`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers

__all__ = ["CONTRIB", "IntegerMatMul", "Window", "window_of"]

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's contributed operators."""


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
    """Geometry of a Conv node; None if it is not 2-d, or its padding is not explicit."""
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


class IntegerMatMul:
    """Adds products and the windows they need to a graph.

    Args:
        initializers: of the graph.
        standard: standard ONNX operators only.
    """

    def __init__(self, initializers: SharedInitializers, *, standard: bool) -> None:
        self._initializers = initializers
        self._standard = standard
        self._indices: dict[Window, ir.Value] = {}

    def windows(self, tape: LayerTape, counts: ir.Value, window: Window, step: int) -> ir.Value:
        """Gather windows: `[N, H, W, C]` to `[N, H', W', kernel pixels * C]`, bytes both."""
        if window.is_pixel:
            return counts
        if any(window.pads):
            top, left, bottom, right = window.pads
            pads = np.asarray([0, top, left, 0, 0, bottom, right, 0], dtype=np.int64)
            name = "pads." + ".".join(map(str, window.pads))
            counts = tape.node("Pad", f"pad.t{step}", counts, self._initializers.array(pads, name))
        pixels = window.padded[0] * window.padded[1]
        flat = self._shape(0, pixels, window.channels)
        counts = tape.node("Reshape", f"pixels.t{step}", counts, flat)
        indices = self._window_indices(tape, window)
        gathered = tape.node("Gather", f"windows.t{step}", counts, indices, axis=1)
        length = window.kernel[0] * window.kernel[1] * window.channels
        rows = self._shape(0, *window.places, length)
        return tape.node("Reshape", f"rows.t{step}", gathered, rows)

    def product(
        self,
        tape: LayerTape,
        rows: ir.Value,
        codes: ir.Value,
        scales: npt.NDArray[np.float32],
        biases: npt.NDArray[np.float32] | None,
        step: int,
        *,
        exact: bool,
    ) -> ir.Value:
        """Compute `rows @ codes * scales + biases`, float32.

        Args:
            tape: which nodes are recorded on.
            rows: `[..., K]` spike counts.
            codes: `[K, N]` int8.
            scales: `[N]`.
            biases: `[N]` or None.
            step: numbers the nodes' names.
            exact: scale and bias may be applied at once, as no rounding comes in between.
        """
        scale = self._initializers.array(scales, f"{tape.layer}.scale{step}")
        bias = None
        if biases is not None:
            bias = self._initializers.array(biases, f"{tape.layer}.bias{step}")
        name = f"current.t{step}"
        if self._standard:
            sums = tape.node("MatMulInteger", f"sums.t{step}", rows, codes)
            values = tape.node("Cast", f"values.t{step}", sums, to=ir.DataType.FLOAT)
            if bias is None:
                return tape.node("Mul", name, values, scale)
            scaled = tape.node("Mul", f"scaled.t{step}", values, scale)
            return tape.node("Add", name, scaled, bias)
        one = self._initializers.scalar(1.0)
        operands: list[ir.Value | None] = [rows, codes, one, scale]
        if bias is None:
            return tape.node("MatMulIntegerToFloat", name, *operands, domain=CONTRIB)
        if exact:
            operands = [*operands, None, None, bias]
            return tape.node("MatMulIntegerToFloat", name, *operands, domain=CONTRIB)
        product = tape.node("MatMulIntegerToFloat", f"product.t{step}", *operands, domain=CONTRIB)
        return tape.node("Add", name, product, bias)

    def _window_indices(self, tape: LayerTape, window: Window) -> ir.Value:
        """`[places, pixels]`, a sum of two small arrays rather than a large one in the file."""
        key = replace(window, channels=0, groups=1)
        if key not in self._indices:
            number = len(self._indices)
            corners = self._initializers.array(window.corners(), f"windows.{number}.corners")
            offsets = self._initializers.array(window.offsets(), f"windows.{number}.offsets")
            self._indices[key] = tape.node("Add", "indices", corners, offsets)
        return self._indices[key]

    def _shape(self, *sizes: int) -> ir.Value:
        name = "shape." + "x".join(map(str, sizes))
        return self._initializers.array(np.asarray(sizes, dtype=np.int64), name)
