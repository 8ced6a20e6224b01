"""Channels of tensors that code writes into: `padded[:, :, 1:-1, 1:-1] = x`."""

from __future__ import annotations

from typing import Any

import torch

from primesvt_deploy.analysis.channel_labels import (
    NO_CHANNEL,
    Channels,
    Planes,
    along_one_axis,
    compressed,
    varying_axes,
)

__all__ = ["written"]


def written(
    channels: Channels,
    whole: torch.Tensor,
    before: Planes,
    index: Any,
    value: torch.Tensor | None,
    planes: Planes,
) -> Planes:
    """Planes of a tensor after `whole[index] = value`.

    What is written meets what else stands at the same place along the channel axis: the rest of a
    row, such as the border of a padded image, belongs to the same channel.

    Args:
        channels: are joined, or fixed where what is written has no channels but their number.
        whole: the tensor.
        before: its planes.
        index: where it is written.
        value: what is written; None: a number, which belongs to the channels that it meets.
        planes: of the value.
    """
    if value is None:
        return before
    found = list(before)
    for plane in planes:
        numbers = torch.full((), NO_CHANNEL).expand(whole.shape).clone()
        numbers[index] = plane.expand(value.shape)
        spread = along_one_axis(compressed(numbers))
        if spread is None:
            channels.fix(planes, "writing into a slice gives them places among others")
            return before
        axes = varying_axes(spread)
        same = next((i for i, other in enumerate(found) if varying_axes(other) == axes), None)
        if same is None:
            found.append(spread)
        else:
            channels.join(found[same], spread)
            found[same] = torch.where(found[same] == NO_CHANNEL, spread, found[same])
    if not planes:
        _fix_as_wide(channels, before, whole, index, value)
    return tuple(found)


def _fix_as_wide(
    channels: Channels, before: Planes, whole: torch.Tensor, index: Any, value: torch.Tensor
) -> None:
    """Fix channels over which a tensor without channels, but with their number, is written."""
    for plane in before:
        region = plane.expand(whole.shape)[index]
        axes = [axis for axis in range(region.ndim) if compressed(region).shape[axis] > 1]
        own = [axis - (region.ndim - value.ndim) for axis in axes]
        if any(axis >= 0 and value.shape[axis] > 1 for axis in own):
            channels.fix([region], "what is written over them has their number of elements")
