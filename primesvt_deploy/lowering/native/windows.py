"""Windows of a native program's operators."""

from __future__ import annotations

from primesvt_deploy.lowering.integer.matmul import Window
from primesvt_deploy.lowering.native.records import WindowRef

__all__ = ["window_ref"]


def window_ref(window: Window) -> WindowRef:
    """Geometry of a convolution, as the engine has it."""
    height, width = window.places
    return WindowRef(
        channels=window.channels,
        height=window.size[0],
        width=window.size[1],
        kernel_height=window.kernel[0],
        kernel_width=window.kernel[1],
        stride_y=window.strides[0],
        stride_x=window.strides[1],
        pad_top=window.pads[0],
        pad_left=window.pads[1],
        dilation_y=window.dilations[0],
        dilation_x=window.dilations[1],
        out_height=height,
        out_width=width,
    )
