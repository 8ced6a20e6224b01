"""Lower the convolution that sees pixels: integers from the first sum on.

Its operator reads the caller's pixels, so that a program has no buffer for its input. Weights are
pairs of rows, as the engine adds two products at a time; a row of the kernel is filled up with a
row of zeros where its number of weights is odd, and a dilated kernel with zeros in between. The
channel of ones, which `PixelConv` has besides those of the image, is made by the engine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.integer.matmul import Window, window_of
from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.native.program import ProgramBuilder, unsupported
from primesvt_deploy.lowering.native.records import PixelsOp
from primesvt_deploy.lowering.native.sinks import sink_of
from primesvt_deploy.lowering.native.windows import window_ref
from primesvt_deploy.lowering.pixel_conv import centred_pixels
from primesvt_deploy.lowering.traced_graph import initializer_array, layer_name

__all__ = ["MOST_KERNEL_ROWS", "lower_pixels"]

MOST_KERNEL_ROWS = 32
"""Rows of a kernel, `SVIT_PIXEL_ROWS` in the engine."""
_MOST_TAPS = 256


def lower_pixels(builder: ProgramBuilder, node: ir.Node) -> bool:
    """Add the convolution that takes pixels; False: the node is not that.

    Raises:
        PostconditionError: the engine cannot run it.
    """
    source = centred_pixels(node.inputs[0]) if node.op_type == "Conv" else None
    weights, name = initializer_array(node.inputs[1]) if source else None, layer_name(node)
    if source is None or weights is None:
        return False
    window, grid = window_of(node), grid_of(weights, bits=16)
    bias = initializer_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:  # the exporter drops zeros
        bias = np.zeros(len(weights), dtype=np.float32)
    if window is None or window.groups > 1 or grid is None:
        raise unsupported(name, "a convolution of pixels that is no plain 2-d one of integers")
    if not source.sums_are_exact(node):
        raise unsupported(name, "sums of pixels beyond 24 bits")
    codes = _undilated(grid.codes, window)
    window = replace(
        window,
        channels=window.channels - 1,
        kernel=(codes.shape[2], codes.shape[3]),
        dilations=(1, 1),
    )
    if window.kernel[0] > MOST_KERNEL_ROWS or window.kernel[0] * window.kernel[1] > _MOST_TAPS:
        raise unsupported(name, f"a kernel of {window.kernel[0]}x{window.kernel[1]} pixels")
    sink = sink_of(builder, node, steps=1, width=window.places[1], exact=True)
    builder.integer_layers.append(name)
    builder.append(
        PixelsOp(
            name=builder.name(sink.name),
            observed=sink.channels if sink.observed else 0,
            window=window_ref(window),
            outputs=len(codes),
            rows=builder.data(_paired(codes)),
            centre=builder.data(source.centre.astype(np.uint8)),
            scale=builder.data(grid.scales),
            bias=builder.data(bias),
            sink=sink.ref,
        )
    )
    return True


def _undilated(
    codes: npt.NDArray[np.signedinteger[Any]], window: Window
) -> npt.NDArray[np.signedinteger[Any]]:
    """Codes `[N, C, kernel height, kernel width]`, with zeros between those of a dilated kernel."""
    rows, columns = window.dilations
    height, width = (d * (k - 1) + 1 for d, k in zip((rows, columns), window.kernel, strict=True))
    whole = np.zeros((*codes.shape[:2], height, width), dtype=codes.dtype)
    whole[:, :, ::rows, ::columns] = codes
    return whole


def _paired(codes: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[np.signedinteger[Any]]:
    """Codes `[N, C, kernel height, kernel width]` as `[kernel height, pairs, N, 2]`."""
    outputs, channels, height, width = codes.shape
    rows = codes.transpose(2, 3, 1, 0).reshape(height, width * channels, outputs)
    even = np.pad(rows, ((0, 0), (0, width * channels % 2), (0, 0)))
    return even.reshape(height, -1, 2, outputs).transpose(0, 1, 3, 2)
