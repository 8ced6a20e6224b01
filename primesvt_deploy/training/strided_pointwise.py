"""Keep narrow strided 1x1 convolutions away from a kernel that computes their gradient wrongly.

oneDNN's `jit_1x1` kernels for the weight gradient of a strided 1x1 convolution in channels-last
layout write past their workspace where the input has fewer channels than they take at a time: 8
with AVX2, 16 with AVX-512 (there on larger images alone, and in bfloat16 too). The process crashes
or hangs, or, with several threads, goes on with wrong gradients. Seen in oneDNN 3.7.1 and 3.12.0,
which torch 2.9.1, 2.13.0 and 2.14.1 have; https://github.com/uxlfoundation/oneDNN/issues/6035.
Pruning makes shortcut convolutions that narrow.

No layout avoids it for good: torch.compile lays every convolution out channels-last on a CPU, and
an image that is a view of tokens lies so as well. `benchmarks/memory_layout.py` shows the fault and
what each way around it costs. Forward passes and the gradient of the input are right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["subsampled_pointwise"]

_CHANNELS_AT_A_TIME = 16
"""Largest number of any kernel with the fault: AVX-512's."""


@contextmanager
def subsampled_pointwise() -> Iterator[None]:
    """Run narrow strided 1x1 convolutions with stride 1 on the pixels that they read; a context.

    Outputs and gradients stay the same. While it lasts it replaces `torch.nn.functional.conv2d`,
    which torch's and SpikingJelly's layers call, for all threads, which does others no harm. Code
    that calls `torch.conv2d`, or `conv2d` by a name imported before, is out of its reach. Enclose
    the backward pass too: it computes checkpointed activations anew, and a `TorchFunctionMode`
    would have ended by then.
    """
    whole = F.conv2d
    F.conv2d = _conv2d  # type: ignore[assignment]
    try:
        yield
    finally:
        F.conv2d = whole


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.conv2d` with the arguments of `torch.nn.functional.conv2d`."""
    rows, columns = _of_both_axes(stride)
    if (
        max(rows, columns) > 1
        and weight.shape[1] < _CHANNELS_AT_A_TIME
        and weight.shape[2:] == (1, 1)
        and padding in (0, (0,), (0, 0), [0], [0, 0], "valid")
        and groups == 1
    ):
        input, stride = input[..., ::rows, ::columns], 1
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _of_both_axes(value: Any) -> tuple[int, int]:
    """Values of both axes from a number, or from a sequence of one or two."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values[0], values[-1]
