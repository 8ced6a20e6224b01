"""Rules of tensor operations: which channels their results belong to, and which they join."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.nn import functional as F

from primesvt_deploy.analysis.channel_labels import (
    NO_CHANNEL,
    Planes,
    along_one_axis,
    compressed,
    varying_axes,
)
from primesvt_deploy.analysis.channel_products import PRODUCTS, Products
from primesvt_deploy.analysis.functional_layers import FUNCTIONAL_LAYERS, functional_layer
from primesvt_deploy.analysis.slice_writes import written

if TYPE_CHECKING:
    from primesvt_deploy.analysis.channel_trace import ChannelTrace

__all__ = ["Rules", "operation_name"]

_MOVES = {
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims",
    "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as",
    "broadcast_to", "repeat", "tile", "repeat_interleave", "roll", "flip", "getitem", "select",
    "narrow", "split", "split_with_sizes", "chunk", "unbind", "cat", "concat", "concatenate",
    "stack", "T", "mT", "t", "index_select", "ravel",
}  # fmt: skip
_JOINING = {"cat", "concat", "concatenate", "stack"}
_SAME = {
    "contiguous", "clone", "detach", "to", "float", "double", "half", "type", "type_as", "data",
    "cpu", "cuda", "alias", "requires_grad_", "dropout", "dropout2d", "relu", "relu6", "sigmoid",
    "tanh", "gelu", "silu", "hardtanh", "leaky_relu", "elu", "softplus", "clamp", "clamp_min",
    "clamp_max", "clip", "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal",
    "floor", "ceil", "round", "sign", "softmax", "log_softmax", "cumsum", "bool", "long", "int",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "logical_not", "nan_to_num", "positive", "hardsigmoid", "hardswish", "mish",
}  # fmt: skip
_MEET = {
    "add", "sub", "mul", "div", "truediv", "floordiv", "true_divide", "multiply", "divide",
    "subtract", "radd", "rsub", "rmul", "rtruediv", "rdiv", "pow", "rpow", "where", "maximum",
    "minimum", "lerp", "addcmul", "masked_fill", "eq", "ne", "gt", "ge", "lt", "le", "and", "or",
    "xor", "logical_and", "logical_or", "fmod", "remainder", "heaviside", "hypot", "copysign",
}  # fmt: skip
_REDUCE = {
    "sum", "mean", "amax", "amin", "max", "min", "prod", "std", "var", "norm", "logsumexp",
    "argmax", "argmin", "any", "all", "median", "nansum", "count_nonzero",
}  # fmt: skip
_CREATE = {
    "zeros", "ones", "full", "empty", "arange", "rand", "randn", "eye", "linspace", "tensor",
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "scalar_tensor", "as_tensor",
    "getattr",
    "dtype", "device", "triu", "tril",
}  # fmt: skip
_POOLS = {
    "max_pool1d": 1, "avg_pool1d": 1, "adaptive_avg_pool1d": 1, "adaptive_max_pool1d": 1,
    "max_pool2d": 2, "avg_pool2d": 2, "adaptive_avg_pool2d": 2, "adaptive_max_pool2d": 2,
    "interpolate": 2, "upsample": 2, "boolean_dispatch": 2,
}  # fmt: skip


def operation_name(node: fx.Node) -> str:
    """Plain name of the function that a node calls: `add` for `__iadd__`, too."""
    if node.target is getattr:
        return str(node.args[1])
    name = getattr(node.target, "__name__", str(node.target))
    if name.startswith("__"):
        name = name.strip("_")
        if name[0] == "i" and name[1:] in _MEET | {"matmul"}:
            name = name[1:]
        return name
    return name.removesuffix("_") if name not in _SAME else name


class Rules:
    """Works out the planes of an operation's result, and joins or fixes channels.

    Args:
        trace: is told.
    """

    def __init__(self, trace: ChannelTrace) -> None:
        self._trace = trace
        self._channels = trace.channels
        self._lost: dict[fx.Node, str] = {}

    def lose(self, node: fx.Node, planes: Planes, reason: str) -> None:
        """Fix channels that are not followed through a node, of whose result nothing is known."""
        self._channels.fix(planes, reason)
        self._lost.setdefault(node, reason)

    def apply(self, node: fx.Node, values: Mapping[fx.Node, Any], result: Any) -> Any:
        """Planes of the result: a tuple of them, or a list of such where it is several tensors."""
        name = operation_name(node)
        whole: Any = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(values[whole], tuple | list):
            found = self._trace.planes.get(whole, ())
            return found[cast(int, node.args[1])] if isinstance(found, list) else ()
        taken = [arg for arg in node.all_input_nodes if self._planes(arg)]
        lost = next((self._lost[arg] for arg in node.all_input_nodes if arg in self._lost), None)
        if lost is not None:
            self._lost[node] = lost
        if not taken or name in _CREATE:
            return ()
        if name == "setitem":
            return self._write(node, values)
        if name in FUNCTIONAL_LAYERS and isinstance(result, torch.Tensor):
            return functional_layer(self._channels, self._planes, node, name, values, result)
        if name in _MOVES or (name == "pad" and _pads_with_constant(node)):
            return self._moved(node, values, name)
        if name in _SAME and isinstance(result, torch.Tensor):
            return self._planes(taken[0])
        if name in _MEET:
            return self._meet(node, values, result)
        if name in PRODUCTS:
            return Products(self._trace, values).apply(node, name)
        if name in _REDUCE:
            return self._reduced(node, values, result)
        if name in _POOLS and isinstance(result, torch.Tensor):
            return self.pooled(self._planes(taken[0]), result, _POOLS[name])
        for argument in taken:
            self.lose(node, self._planes(argument), f"what {name}() does with them")
        return ()

    def _write(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Planes:
        """Planes of the tensor that is written into, which change from now on."""
        whole, index, value = node.args
        written_value = values[value] if isinstance(value, fx.Node) else None
        self._trace.planes[cast(fx.Node, whole)] = written(
            self._channels,
            values[cast(fx.Node, whole)],
            self._planes(whole),
            map_arg(cast(Any, index), lambda argument: values[argument]),
            written_value if isinstance(written_value, torch.Tensor) else None,
            self._planes(value),
        )
        return ()

    def pooled(self, planes: Planes, result: torch.Tensor, axes: int) -> Planes:
        """Planes after an operation on the last axes alone, whose sizes may change."""
        kept = []
        for plane in planes:
            if any(axis >= result.ndim - axes for axis in varying_axes(plane)):
                self._channels.fix([plane], "pooling mixes them with their neighbours")
            else:
                kept.append(plane)
        return tuple(kept)

    def _planes(self, node: Any) -> Planes:
        found = self._trace.planes.get(node, ())
        return found if isinstance(found, tuple) else ()

    def _moved(self, node: fx.Node, values: Mapping[fx.Node, Any], name: str) -> Any:
        results = []
        for planes in self._matched(node, name):

            def numbers(argument: fx.Node, planes: Mapping[fx.Node, torch.Tensor] = planes) -> Any:
                value = values[argument]
                if not isinstance(value, torch.Tensor):
                    return value
                if argument in planes:
                    return planes[argument].expand(value.shape)
                if not value.is_floating_point():  # an index
                    return value
                return torch.full((), NO_CHANNEL).expand(value.shape)

            args: Any = map_arg(node.args, numbers)
            kwargs: Any = map_arg(node.kwargs, numbers)
            if name == "pad":
                framed = compressed(F.pad(args[0], args[1], value=NO_CHANNEL))
                spread = along_one_axis(framed)
                results.append(framed if spread is None else spread)
            else:
                results.append(node.target(*args, **kwargs))  # type: ignore[operator]
            if isinstance(results[-1], torch.Tensor):
                self._fix_selected(node, next(iter(planes.values())), results[-1])
        if isinstance(results[0], tuple | list):
            parts = zip(*results, strict=True)
            return [tuple(_labelled(compressed(plane) for plane in part)) for part in parts]
        return tuple(_labelled(compressed(plane) for plane in results))

    def _matched(self, node: fx.Node, name: str) -> list[dict[fx.Node, torch.Tensor]]:
        """Planes that move together: of several tensors those along the same axes."""
        found: dict[object, dict[fx.Node, torch.Tensor]] = {}
        for argument in node.all_input_nodes:
            for number, plane in enumerate(self._planes(argument)):
                key = varying_axes(plane) if name in _JOINING else number
                found.setdefault(key, {}).setdefault(argument, plane)
        return list(found.values())

    def _fix_selected(self, node: fx.Node, plane: torch.Tensor, result: torch.Tensor) -> None:
        """Fix channels that code picks by their index: they must stay where they are."""
        if operation_name(node) not in ("getitem", "select", "narrow", "index_select"):
            return
        index = node.args[1] if len(node.args) > 1 else None
        items = index if isinstance(index, tuple | list) else [index]
        stepped = any(isinstance(item, slice) and item.step not in (None, 1) for item in items)
        # Where all channels are still there, the step was along another axis.
        if stepped and len(result.unique()) < len(plane.unique()):
            self._channels.fix([plane], "a slice with a step takes some of them")
        elif len(plane.unique()) > 1 and len(result.unique()) == 1:
            self._channels.fix([result], "an index names one of them")

    def _meet(self, node: fx.Node, values: Mapping[fx.Node, Any], result: Any) -> Planes:
        """Elementwise operations of several tensors, which are broadcast."""
        found: dict[tuple[int, ...], torch.Tensor] = {}
        for argument in node.all_input_nodes:
            for plane in self._planes(argument):
                whole = plane.reshape([1] * (result.ndim - plane.ndim) + list(plane.shape))
                axes = varying_axes(whole)
                if axes in found:
                    self._channels.join(found[axes], whole)
                else:
                    found[axes] = whole
        for argument in node.all_input_nodes:
            value = values[argument]
            if isinstance(value, torch.Tensor) and not self._planes(argument):
                for axes, plane in found.items():
                    self._meet_unlabelled(argument, value, plane, axes, result.ndim)
        return tuple(found.values())

    def _meet_unlabelled(
        self,
        argument: fx.Node,
        value: torch.Tensor,
        plane: torch.Tensor,
        axes: Sequence[int],
        ndim: int,
    ) -> None:
        """A tensor without channels of its own, such as a parameter, that is as wide as them."""
        # Of channels along several axes, those before the last are heads, whose number stays.
        own = axes[-1] - (ndim - value.ndim)
        if own >= 0 and value.shape[own] > 1:
            what = argument.target if argument.op == "get_attr" else "a tensor made in the code"
            reason = self._lost.get(argument, f"{what} has their number of elements")
            self._channels.fix([plane], reason)

    def _reduced(self, node: fx.Node, values: Mapping[fx.Node, Any], result: Any) -> Any:
        x = node.args[0] if node.args else node.kwargs["input"]
        value = values[x]  # type: ignore[index]
        given = node.kwargs.get("dim", node.kwargs.get("axis"))
        if given is None:
            rest = node.args[2:] if operation_name(node) == "norm" else node.args[1:]
            given = rest[0] if rest else None
        if isinstance(given, fx.Node):  # the elementwise maximum of two tensors
            return self._meet(node, values, result)
        dims = range(value.ndim) if given is None else (given,) if type(given) is int else given
        axes = {dim % value.ndim for dim in dims}  # type: ignore[union-attr]
        first = result if isinstance(result, torch.Tensor) else result[0]
        keeps = first.ndim == value.ndim
        planes = []
        for plane in self._planes(x):
            own = varying_axes(plane)
            if own and own[-1] in axes:
                # Summed over, they are gone; a silent channel takes part in anything else.
                if operation_name(node) not in ("sum", "nansum"):
                    self._channels.fix([plane], f"{operation_name(node)}() over them")
                continue
            for axis in axes & set(own):  # over branches or heads, whose channels meet
                first = plane.narrow(axis, 0, 1)
                self._channels.join(first, plane)
                plane = first
            shape = [n for axis, n in enumerate(plane.shape) if keeps or axis not in axes]
            planes.append(plane.reshape(shape))
        if isinstance(result, torch.Tensor):
            return tuple(planes)
        return [tuple(planes) if i == 0 else () for i in range(len(result))]


def _labelled(planes: Any) -> list[torch.Tensor]:
    """Planes without those that hold no channel at all."""
    return [plane for plane in planes if bool((plane != NO_CHANNEL).any())]


def _pads_with_constant(node: fx.Node) -> bool:
    mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
    return bool(mode == "constant")
