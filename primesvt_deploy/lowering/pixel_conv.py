"""The convolution that sees pixels, so that the first sums of a network are exact, too.

A network's first convolution sees `(p / 255 - mean) / std` of a pixel p, and zeros around the
image. With the whole number m next to `255 mean`, channel by channel, it sums

    W (p / 255 - mean) / std  =  W' (p - m) + W' (m - 255 mean)        W' = W / (255 std)

over the pixels of a window that are in the image. `p - m` is whole, and padded with zeros. The
second term is a weight that each of these pixels adds once, whatever its value: that of one channel
more, which is 1 in the image and 0 around it. So borders are right, and with W' on a grid all sums
are whole multiples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional

from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.traced_graph import initializer_array

__all__ = [
    "LARGEST_PIXEL",
    "CentredPixels",
    "PixelConv",
    "centred_pixels",
    "largest_inputs",
    "pixel_conv",
]

LARGEST_PIXEL = 255
"""Largest value of a pixel."""


class PixelConv(nn.Conv2d):
    """A convolution of pixels, `[N, C, H, W]` uint8, less m, and of one channel of ones.

    Args:
        layer: a convolution that pads with zeros; its geometry is taken over, weights are not.
        centre: m, `[C]`.
    """

    centre: torch.Tensor

    def __init__(self, layer: nn.Conv2d, centre: torch.Tensor) -> None:
        super().__init__(
            layer.in_channels + 1,
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
        centred = x.to(self.weight.dtype) - self.centre
        return super().forward(functional.pad(centred, (0, 0, 0, 0, 0, 1), value=1.0))


def pixel_conv(network: nn.Module) -> PixelConv | None:
    """The layer of a network that sees pixels; None: the network takes preprocessed values."""
    found = (module for module in network.modules() if isinstance(module, PixelConv))
    return next(found, None)


def largest_inputs(centre: torch.Tensor) -> torch.Tensor:
    """Largest absolute value of each channel of `[C + 1]`: of p - m, and 1.

    Args:
        centre: m, of any shape with C values.
    """
    m = centre.flatten().long()
    return torch.cat([torch.maximum(m, LARGEST_PIXEL - m), torch.ones(1, dtype=torch.long)])


@dataclass(frozen=True)
class CentredPixels:
    """Pixels that a `PixelConv` sums, in a traced graph.

    Args:
        pixels: the graph's input, uint8.
        centre: m, `[C]`.
        nodes: that compute them.
    """

    pixels: ir.Value
    centre: npt.NDArray[np.float32]
    nodes: tuple[ir.Node, ...]

    def sums_are_exact(self, node: ir.Node) -> bool:
        """Whether this convolution of them is the same in any order of adding."""
        weights, bias = (initializer_array(value) for value in (*node.inputs, None)[1:3])
        grid = None if weights is None else grid_of(weights, bits=16)
        if weights is None or grid is None:
            return False
        added = np.zeros(len(weights), dtype=np.float32) if bias is None else bias
        return grid.sums_are_exact(added, largest_inputs(torch.from_numpy(self.centre)).numpy())


def centred_pixels(value: ir.Value | None) -> CentredPixels | None:
    """Find how a tensor of a traced graph is made of pixels; None: it is not."""
    nodes: list[ir.Node] = []
    for operator in ("Pad", "Sub", "Cast"):
        node = None if value is None else value.producer()
        if node is None or (node.op_type, node.domain) != (operator, ""):
            return None
        nodes.append(node)
        value = node.inputs[0]
    centre = initializer_array(nodes[1].inputs[1])
    of_pixels = value is not None and value.is_graph_input() and value.dtype == ir.DataType.UINT8
    if centre is None or value is None or not of_pixels:
        return None
    return CentredPixels(value, centre.reshape(-1), tuple(nodes))
