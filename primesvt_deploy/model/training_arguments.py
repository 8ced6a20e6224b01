"""The training script's arguments that stand beside the weights of a checkpoint."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ARGUMENT_ENTRIES", "training_arguments"]

ARGUMENT_ENTRIES = (
    "args", "hyper_parameters", "hparams", "config", "cfg", "opt", "model_args", "model_config",
)  # fmt: skip
"""Entries in which training scripts, and Lightning, store their arguments."""
_OF_THE_MODEL = ("model", "net", "network", "model_args", "model_config")
"""Sections of arguments that are the model's."""
_OF_TRAINING = re.compile(r"(?i)loss|criterion|distill|(?:^|_)kd(?:_|$)|teacher|optim|sched")
"""Found in the names of sections that are not: their T is a temperature."""
_MOST_VALUES = 1000
"""Most values in one argument; its text would fill pages."""
_MOST_TEXT = 1000
_LARGEST = 2**63


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with those of sections inside them, such as `{'model': {'T': 4}}`."""
    of_others: dict[str, Any] = {}
    of_the_model: dict[str, Any] = {}
    for name, value in arguments.items():
        inner = vars(value) if isinstance(value, argparse.Namespace) else value
        if not isinstance(inner, Mapping) or _OF_TRAINING.search(str(name)):
            continue
        flat = of_the_model if name in _OF_THE_MODEL else of_others
        flat.update({str(key): each for key, each in inner.items()})
        called = inner.get("name", inner.get("type"))
        if name in _OF_THE_MODEL and isinstance(called, str):
            flat["model_name"] = called
    return {**of_others, **arguments, **of_the_model}


def training_arguments(content: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """Arguments of the training script; of the containers around the weights the innermost's win.

    Args:
        content: what the file holds.
        path: names of the containers around the weights.
    """
    arguments: Mapping[str, Any] = {}
    for name in (*path, None):
        if not isinstance(content, Mapping):
            break
        for entry in reversed(ARGUMENT_ENTRIES):
            found = content.get(entry)
            found = vars(found) if isinstance(found, argparse.Namespace) else found
            if isinstance(found, Mapping):
                arguments = {**arguments, **_flat(found)}
        # timm stores the model's name beside its arguments, too.
        if isinstance(content.get("arch"), str):
            arguments = {**arguments, "arch": content["arch"]}
        content = None if name is None else content.get(name)
    return {name: _bounded(value) for name, value in arguments.items()}


def _bounded(value: Any) -> Any:
    """The value; None where comparing or printing it could fail, or take for ever.

    A list may hold one list twice, and so on, or hold itself.
    """
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    waiting = [value]
    for _ in range(_MOST_VALUES):
        if not waiting:
            return value
        part = waiting.pop()
        if isinstance(part, argparse.Namespace):
            part = vars(part)
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set):
            waiting += part
        elif not _is_small(part):
            return None
    return None


def _is_small(value: Any) -> bool:
    """Whether a value that holds no others is no more than a number or a short text."""
    import torch  # here, as the names above are read without it

    if isinstance(value, torch.Tensor):
        plain = value.layout is torch.strided and not (value.is_nested or value.is_meta)
        return plain and value.numel() == 1 and not value.is_quantized
    if isinstance(value, str | bytes):
        return len(value) <= _MOST_TEXT
    return not isinstance(value, int) or abs(value) < _LARGEST
