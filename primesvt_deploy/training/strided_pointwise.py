"""Keep narrow strided 1x1 convolutions away from the kernel that gets their gradient wrong.

oneDNN's `jit_1x1` kernel for the weight gradient of a strided 1x1 convolution in channels-last
layout writes past its workspace where the input has fewer channels than the kernel takes at a time:
8 with AVX2, 16 with AVX-512, there on larger images alone (seen in oneDNN 3.7.1 and 3.12.0, which
torch 2.9.1, 2.13.0 and 2.14.1 have; https://github.com/uxlfoundation/oneDNN/issues/6035). The
process crashes or hangs, or, with several threads, goes on with wrong gradients. Pruning makes
shortcuts that narrow.

No layout avoids it for good: torch.compile lays every convolution out channels-last on a CPU, and
an image that is a view of tokens lies so as well. `benchmarks/memory_layout.py` shows the fault and
what each way around it costs. Forward passes and the gradient of the input are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["subsample_before_pointwise"]


_CHANNELS_AT_A_TIME = 16
"""The most of any kernel with the fault: AVX-512's."""


def subsample_before_pointwise(network: nn.Module) -> None:
    """Make narrow strided 1x1 convolutions run with stride 1 on every s-th pixel, in place.

    A 1x1 convolution of stride s reads no other pixel, so outputs and gradients stay the same.
    Parameters, their names and the layers' attributes stay as they are too. For a network that is
    only trained: exported, it would have a slice and a convolution for one operator.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _is_narrow_strided_pointwise(layer):
            layer._conv_forward = partial(  # type: ignore[method-assign]
                _convolve_every, strides=layer.stride
            )


def _is_narrow_strided_pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.in_channels < _CHANNELS_AT_A_TIME
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.padding in ((0, 0), "valid")
        and layer.groups == 1
        # A subclass with arithmetic of its own keeps it.
        and type(layer)._conv_forward is nn.Conv2d._conv_forward
    )


def _convolve_every(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    strides: Sequence[int],
) -> torch.Tensor:
    rows, columns = strides
    return F.conv2d(x[..., ::rows, ::columns], weight, bias)
