"""The forms in which calls of torch's functions are recorded.

One form for each, in which sizes have a place of their own and nothing follows a width by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["normalised"]

_NARROW = ("input", "dim", "start", "length")
_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
_OF_TWO = {"matmul", "bmm", "mm"}


def normalised(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """A call in the form that is recorded.

    `chunk` and `split` become a split into parts of given sizes: after a cut these may be unequal.
    Arguments that hold sizes have one place each.
    """
    if not args and "input" in kwargs:
        kwargs = dict(kwargs)
        args = (kwargs.pop("input"),)
    if func is torch.conv2d:
        return _conv2d, args, kwargs
    name = getattr(func, "__name__", "")
    if name == "narrow":
        given = {**dict(zip(_NARROW, args, strict=False)), **kwargs}
        size = given["input"].shape[given["dim"]]
        start = given["start"] + size if given["start"] < 0 else given["start"]
        return func, (given["input"], given["dim"], start, given["length"]), {}
    if name in _OF_TWO and len(args) == 1:
        second = next(iter(kwargs.values()), None)
        return func, (*args, second), {}
    if name == "scaled_dot_product_attention":
        given = {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}
        return _attention(func, **given)
    if name not in ("chunk", "split", "tensor_split", "hsplit"):
        return func, args, kwargs
    parts = func(*args, **kwargs)
    whole = args[0] if args else kwargs.get("input", kwargs.get("tensor"))
    axes = [
        axis
        for axis in range(whole.ndim)
        if sum(part.shape[axis] for part in parts) == whole.shape[axis]
        and all(part.shape[axis] != whole.shape[axis] for part in parts)
    ]
    if len(axes) != 1:
        return func, args, kwargs
    return torch.split, (whole, [part.shape[axes[0]] for part in parts]), {"dim": axes[0]}


def _attention(
    func: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **further: Any,
) -> tuple[Any, Any, Any]:
    """A call of attention with its scale, which must not change with the width of a head."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if attn_mask is None and not is_causal and not any(further.values()):
        return scaled_dot_product_attention, (query, key, value, scale), {}
    options = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, **further}
    return func, (query, key, value), options


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention as products: torch.onnx writes torch's own for tensors of four axes alone."""
    weights = (query @ key.transpose(-2, -1) * scale).softmax(dim=-1)
    return weights @ value


def _conv2d(*args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.nn.functional.conv2d` by its name, under which training replaces it."""
    found: torch.Tensor = F.conv2d(*args, **kwargs)
    return found
