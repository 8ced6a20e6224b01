"""The smallest script that shows oneDNN's fault in the gradient of a strided 1x1 convolution.

    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/strided_pointwise.py 4 16 --threads 2

Prints the error of the weight gradient against float64, as a share of the largest gradient, of a
convolution with stride 2 from so many channels to 8, on 8 square images of that size. With few
channels in channels-last layout it ends by a signal, hangs, or prints a large share; see
`primesvt_deploy/training/strided_pointwise.py`.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

IMAGES, OUT_CHANNELS = 8, 8


def main() -> None:
    """Read the arguments and print one number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("channels", type=int)
    parser.add_argument("size", type=int, help="pixels")
    parser.add_argument("--layout", choices=("channels_last", "contiguous_format"))
    parser.add_argument("--subsampled", action="store_true", help="every second pixel first")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(layout="channels_last")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x = torch.randn(IMAGES, options.channels, options.size, options.size)
    weight = torch.randn(OUT_CHANNELS, options.channels, 1, 1)
    laid = [t.contiguous(memory_format=getattr(torch, options.layout)) for t in (x, weight)]
    found = gradient(*laid, subsampled=options.subsampled)
    right = gradient(x.double(), weight.double(), subsampled=False)
    print(float((found - right).abs().max() / right.abs().max()))


def gradient(x: torch.Tensor, weight: torch.Tensor, *, subsampled: bool) -> torch.Tensor:
    """Gradient of half the sum of squared outputs with respect to the weight."""
    weight = weight.detach().requires_grad_()
    inputs, stride = (x[..., ::2, ::2], 1) if subsampled else (x, 2)
    F.conv2d(inputs, weight, stride=stride).square().sum().div(2).backward()
    assert weight.grad is not None
    return weight.grad


if __name__ == "__main__":
    main()
