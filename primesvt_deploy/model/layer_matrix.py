"""A convolution or linear layer as a matrix product: weights `[N, K]`, inputs `[rows, K]`.

N is the number of output channels. The K columns run over kernel pixels, and over channels for
each of them.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Weighted", "input_rows", "is_dense", "set_weights", "weight_matrix"]

Weighted = nn.Conv1d | nn.Conv2d | nn.Linear
_WINDOWS = 64
"""About how many windows are taken of an image; others overlap with them and add little."""


def is_dense(layer: nn.Module) -> bool:
    """Whether outputs depend on all channels: a linear layer or ungrouped 2-d convolution."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def weight_matrix(layer: Weighted) -> torch.Tensor:
    """Weights of a layer as a matrix `[N, K]`."""
    weight = layer.weight.detach()
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight.flatten(1)


@torch.no_grad()
def set_weights(layer: Weighted, matrix: torch.Tensor) -> None:
    """Set a layer's weights, in place, to a matrix `[N, K]`; the inverse of `weight_matrix`."""
    weight = layer.weight
    if weight.ndim == 4:
        n, channels, height, width = weight.shape
        matrix = matrix.reshape(n, height, width, channels).permute(0, 3, 1, 2)
    weight.copy_(matrix.reshape(weight.shape))


def input_rows(layer: Weighted, x: torch.Tensor) -> torch.Tensor:
    """Rows `[rows, K]` of a layer's input that its weight matrix multiplies.

    A row is a pixel, or the window of pixels under the kernel; of a convolution's windows every
    n-th of an image is taken, about 64, and n shares no factor with the map's height and width, so
    that border and middle are met about as often as they occur. They do not depend on the batch.

    Args:
        layer: the layer.
        x: its input, as its forward pass takes it, with a time axis in front or not.

    Returns:
        Rows `[rows, K]`; for a layer that is not dense (see `is_dense`) the mean of each channel
        over the positions instead, `[rows, channels]`.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if not is_dense(layer):
        return x.flatten(-1 if isinstance(layer, nn.Conv1d) else -2).mean(dim=-1).flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    x = x.flatten(0, -4)  # a time axis of its own
    # The layer itself goes by this value, whatever `padding` and `padding_mode` say.
    around = cast(Any, layer)._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = _windows(layer, F.pad(x, around, mode=mode))
    height, width = windows.shape[1:3]
    step = max(1, height * width // _WINDOWS)
    while math.gcd(step, height * width) > 1:
        step += 1
    kept = torch.arange(0, height * width, step, device=x.device)
    return windows[:, kept // width, kept % width].flatten(0, 1).flatten(1)


def _windows(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A view of a padded input's windows, `[images, height, width, *kernel, channels]`.

    Most windows are left out: a view spares the memory and the time of unfolding them.
    """
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    (apart, aside) = layer.dilation
    images, channels, rows, columns = x.shape
    height = (rows - apart * (high - 1) - 1) // down + 1
    width = (columns - aside * (wide - 1) - 1) // right + 1
    image, channel, row, column = x.stride()
    return x.as_strided(
        (images, height, width, high, wide, channels),
        (image, down * row, right * column, apart * row, aside * column, channel),
    )
