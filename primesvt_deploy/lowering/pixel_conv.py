"""The convolution that sees pixels, so that the first sums of a network are exact, too.

A network's first convolution sees `(p / 255 - mean) / std` of a pixel p, and zeros around the
image. With a whole number m next to `255 mean`, channel by channel,

    sum of W (p / 255 - mean) / std + b  =  sum of W' (p - m) + b'
    W' = W / (255 std)        b' = b - sum of W' (255 mean - m)

`p - m` is whole and W' is rounded to a grid, so that sums of products are whole multiples, too. The
padding of `p - m` is zero: what lies around an image is m, where the network has `255 mean`, not
half a gray level from it. Both b' and the padding are the same at every place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from primesvt_deploy.lowering.traced_graph import initializer_array

__all__ = ["LARGEST_PIXEL", "CentredPixels", "PixelConv", "centred_pixels", "pixel_conv"]

LARGEST_PIXEL = 255
"""Largest value of a pixel, and of its distance from m."""


class PixelConv(nn.Conv2d):
    """A convolution of pixels, `[N, C, H, W]` uint8, less the whole number m of their channel.

    Args:
        layer: a convolution that pads with zeros; its geometry is taken over, weights are not.
        centre: m, `[C]`.
    """

    centre: torch.Tensor

    def __init__(self, layer: nn.Conv2d, centre: torch.Tensor) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
        )
        self.register_buffer("centre", centre.reshape(1, -1, 1, 1))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents `[N, C', H', W']` of pixels `[N, C, H, W]`, of any type."""
        return super().forward(x.to(self.weight.dtype) - self.centre)


def pixel_conv(network: nn.Module) -> PixelConv | None:
    """The layer of a network that sees pixels; None: the network takes preprocessed values."""
    found = (module for module in network.modules() if isinstance(module, PixelConv))
    return next(found, None)


@dataclass(frozen=True)
class CentredPixels:
    """Pixels less m in a traced graph, which `PixelConv` takes its sums of.

    Args:
        pixels: the graph's input, uint8.
        centre: m, `[C]`.
        nodes: that compute them.
    """

    pixels: ir.Value
    centre: npt.NDArray[np.float32]
    nodes: tuple[ir.Node, ...]


def centred_pixels(value: ir.Value | None) -> CentredPixels | None:
    """Find what a tensor of a traced graph is made of; None: it is no pixels less m."""
    difference = None if value is None else value.producer()
    if difference is None or (difference.op_type, difference.domain) != ("Sub", ""):
        return None
    cast, centre = difference.inputs[0], initializer_array(difference.inputs[1])
    converted = None if cast is None else cast.producer()
    if converted is None or converted.op_type != "Cast" or centre is None:
        return None
    pixels = converted.inputs[0]
    if pixels is None or pixels.dtype != ir.DataType.UINT8 or not pixels.is_graph_input():
        return None
    return CentredPixels(pixels, centre.reshape(-1), (converted, difference))
