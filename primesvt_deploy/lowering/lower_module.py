"""Lower a torch module to plain arithmetic: the model as its artifact computes it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from primesvt_deploy.lowering.fold_batchnorm import fold_batchnorm
from primesvt_deploy.lowering.stateless import stateless_copy

__all__ = ["lower_module"]

_Module = TypeVar("_Module", bound=nn.Module)


def lower_module(module: _Module, *, fold_norms: bool = True) -> _Module:
    """Copy a module as plain arithmetic: norms folded, neurons stateless; same outputs.

    Neurons whose unit has `absorb_gain` end with gain 1. The argument is left as it is.

    Args:
        module: a network, or a part of one.
        fold_norms: False: neurons become stateless and all else stays as it is.

    Raises:
        ExportError: a norm of a unit cannot be folded.
    """
    lowered = stateless_copy(module)
    if fold_norms:
        fold_batchnorm(lowered)
    return lowered
