"""Refuse a supernet of neural architecture search: one of its subnets is the model to deploy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from primesvt_deploy.errors import ModelError

__all__ = ["refuse_supernet", "refuse_supernet_keys"]

_CHOICES = r"choices?|choice_blocks?|candidate_ops|mixed_ops?"
_SEGMENT = re.compile(
    rf"super_\w+|\w+_super|sample_\w+|{_CHOICES}|arch_param\w*|alphas_\w+|AP_path_\w+"
)
"""Names in keys of one-shot, AutoFormer-like and differentiable searches."""
_METHODS = ("set_sample_config", "set_active_subnet", "sample_active_subnet")
_ADVICE = (
    "a supernet holds the weights of many subnets, each timed and pruned on its own: export one "
    "subnet first, as a network of plain layers with its own weights"
)


def refuse_supernet_keys(keys: Iterable[str], path: Path) -> None:
    """Refuse the checkpoint of a supernet.

    Args:
        keys: of its state_dict.
        path: the file, for the message.

    Raises:
        ModelError: parts of keys are those of a supernet, such as `super_` or `choice`.
    """
    found = next((k for k in keys if any(map(_SEGMENT.fullmatch, k.split(".")))), None)
    if found is not None:
        raise ModelError(f"{path} is of a supernet (its key {found}); {_ADVICE}")


def refuse_supernet(net: nn.Module) -> None:
    """Refuse a module that is a supernet, or has layers of one.

    Args:
        net: a user's module.

    Raises:
        ModelError: a layer can be set to one of several subnets; names it.
    """
    for name, module in net.named_modules():
        sign = _sign(name, module)
        if sign:
            place = f"{name} of {type(net).__name__}" if name else type(net).__name__
            raise ModelError(f"{place} is part of a supernet ({sign}); {_ADVICE}")


def _sign(name: str, module: nn.Module) -> str:
    """Sign that a module has several subnets, or ""."""
    for method in _METHODS:
        if callable(getattr(module, method, None)):
            return f"it has a method {method}"
    own = vars(module)
    if any(k.startswith("super_") for k in own) and any(k.startswith("sample_") for k in own):
        return "it has sizes super_... and sample_..."
    named = re.fullmatch(_CHOICES, name.rpartition(".")[2])
    if named and isinstance(module, nn.ModuleList | nn.ModuleDict):
        choices = len(list(module.children()))
        return f"it has {choices} choices" if choices > 1 else ""
    return ""
