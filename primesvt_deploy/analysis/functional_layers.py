"""Channels of layers that code calls as functions: `conv2d(x, self.weight)`, `batch_norm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from primesvt_deploy.analysis.channel_labels import Channels, Planes, varying_axes

__all__ = ["FUNCTIONAL_LAYERS", "functional_layer"]

FUNCTIONAL_LAYERS = {"linear": 0, "conv1d": 1, "conv2d": 2, "_conv2d": 2, "batch_norm": -1}
"""By name, the number of axes behind the channel axis; -1: the channel axis is the second."""
_ARGUMENTS = {
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "linear": ("input", "weight", "bias"),
}
_OF_A_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def functional_layer(
    channels: Channels,
    planes_of: Callable[[Any], Planes],
    node: fx.Node,
    name: str,
    values: Mapping[fx.Node, Any],
    result: torch.Tensor,
) -> Planes:
    """Planes of the result of a layer's function, whose weights have planes of their own.

    Args:
        channels: are joined and fixed.
        planes_of: planes of an argument.
        node: the call.
        name: of the function.
        values: of the arguments.
        result: of the call.
    """
    names = _ARGUMENTS.get(name, _OF_A_CONVOLUTION)
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    x: Any = given["input"]
    behind = FUNCTIONAL_LAYERS[name]
    if name == "batch_norm":
        _meet(channels, planes_of, given, values, axis=1, taken=names[1:])
        return planes_of(x)
    if given.get("groups", 1) != 1:
        for argument in (x, given["weight"]):
            channels.fix(planes_of(argument), "a convolution of groups, called as a function")
        return ()
    axis = result.ndim - 1 - behind
    beside = _consume(channels, planes_of(x), planes_of(given["weight"]), axis, keeps=not behind)
    shape = [1] * result.ndim
    shape[axis] = result.shape[axis]
    produced = [p for p in planes_of(given["weight"]) if varying_axes(p) == (0,)]
    found = [plane.reshape(shape) for plane in produced[:1]]
    bias: Any = given.get("bias")
    for plane in planes_of(bias):
        for numbers in found:
            channels.join(numbers.flatten(), plane)
    if isinstance(bias, fx.Node) and not planes_of(bias):
        channels.fix(found, f"{bias.target} has their number of elements")
    return (*found, *beside)


def _consume(
    channels: Channels, arriving: Planes, weight: Planes, axis: int, *, keeps: bool
) -> Planes:
    """Join the channels of an input with those that a weight takes; planes that pass by."""
    taken = [plane for plane in weight if varying_axes(plane) == (1,)]
    own = [plane for plane in arriving if varying_axes(plane) == (axis,)]
    beside = [p for p in arriving if keeps and axis not in varying_axes(p)]
    inside = [p for p in arriving if not any(p is other for other in (*own, *beside))]
    channels.fix(inside, "a layer sums over them and something else")
    if own and taken:
        for plane in own:
            channels.join(plane.flatten(), taken[0].flatten())
    else:
        channels.fix([*own, *taken], "a layer's function takes them in another form")
    kernel = [p for p in weight if set(varying_axes(p)) - {0, 1} or len(varying_axes(p)) > 1]
    channels.fix(kernel, "they are a convolution's kernel")
    return tuple(beside)


def _meet(
    channels: Channels,
    planes_of: Callable[[Any], Planes],
    given: Mapping[str, Any],
    values: Mapping[fx.Node, Any],
    *,
    axis: int,
    taken: tuple[str, ...],
) -> None:
    """Join an input's channels with those of tensors `[channels]`."""
    for plane in planes_of(given["input"]):
        if axis not in varying_axes(plane):
            continue
        if varying_axes(plane) != (axis,):
            channels.fix([plane], "a norm treats some of them as one")
            continue
        for name in taken:
            argument = given.get(name)
            if not isinstance(argument, fx.Node) or not isinstance(values[argument], torch.Tensor):
                continue
            if planes_of(argument):
                channels.join(plane.flatten(), planes_of(argument)[0])
            else:
                channels.fix([plane], f"{argument.target} has their number of elements")
