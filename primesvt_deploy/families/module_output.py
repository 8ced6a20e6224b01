"""Tensors in what a user's module returns: alone, or in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["output_at", "output_tensors"]


def output_tensors(output: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of an output, each with its path: "" for itself, `0`, `logits` or `1/logits`."""
    if isinstance(output, torch.Tensor):
        yield path, output
    else:
        for key, value in _entries(output):
            yield from output_tensors(value, f"{path}/{key}".removeprefix("/"))


def output_at(output: Any, path: str) -> torch.Tensor:
    """The tensor at a path of `output_tensors`.

    Raises:
        TypeError: nothing is there, as where the module returns something else than before.
    """
    for found, tensor in output_tensors(output):
        if found == path:
            return tensor
    place = f"an output {path}" if path else "a tensor"
    raise TypeError(f"the module returns a {type(output).__name__} without {place}")


def _entries(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif isinstance(output, tuple | list):
        yield from ((str(index), value) for index, value in enumerate(output))
