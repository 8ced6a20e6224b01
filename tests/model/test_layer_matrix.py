"""Rows that a layer's weight matrix multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primesvt_deploy.model.layer_matrix import input_rows, weight_matrix


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_times_weights_are_the_layers_outputs(
    stride: int, dilation: int, layout: torch.memory_format
) -> None:
    layer = nn.Conv2d(5, 7, (3, 2), stride, padding=1, dilation=dilation, bias=False).double()
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64).to(memory_format=layout)
    rows = input_rows(layer, x)
    expected = layer(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows @ weight_matrix(layer).T, expected)


def test_of_many_windows_every_nth_is_taken() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.rand(9, 3, 32, 32)
    windows = F.unfold(F.pad(x, (1, 1, 1, 1)), 3)  # [images, channels * pixels, positions]
    whole = windows.unflatten(1, (3, 9)).permute(0, 3, 2, 1).flatten(2)
    rows = input_rows(layer, x)
    assert torch.equal(rows, whole[:, ::17].flatten(0, 1))
    apart = torch.cat([input_rows(layer, part) for part in x.split(4)])
    assert torch.equal(apart, rows)


@pytest.mark.parametrize("side", [(32, 32), (28, 56), (36, 24), (7, 7), (112, 112)])
def test_windows_are_taken_of_all_columns_and_rows_alike(side: tuple[int, int]) -> None:
    height, width = side
    layer = nn.Conv2d(2, 4, 1)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    seen = input_rows(layer, torch.stack([row, column]).float()[None])
    for axis, length in enumerate(side):
        counts = torch.bincount(seen[:, axis].long(), minlength=length)
        assert int(counts.max() - counts.min()) <= 1 + len(seen) // height // width
