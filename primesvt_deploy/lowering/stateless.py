"""Copy a torch module with its neurons as stateless arithmetic, which can be traced."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron, SequenceNeuron
from primesvt_deploy.lowering.contract import PreconditionError
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron, UnrolledSequence

__all__ = ["require_stateless", "stateless_copy"]

_Module = TypeVar("_Module", bound=nn.Module)


def stateless_copy(module: _Module) -> _Module:
    """Copy a module in evaluation mode, its neurons unrolled; the argument is left as it is.

    Args:
        module: a network, or a part of one.
    """
    stateless = copy.deepcopy(module).requires_grad_(False)
    for unit in list(stateless.modules()):
        for name, child in list(unit.named_children()):
            if isinstance(child, Neuron):
                unrolled = UnrolledSequence if isinstance(child, SequenceNeuron) else UnrolledNeuron
                setattr(unit, name, unrolled(ChargeFireReset.of(child), used=child.used))
    return stateless.eval()


def require_stateless(module: nn.Module) -> None:
    """Check that no neuron of a module keeps state between calls.

    Raises:
        PreconditionError: one does; it is named.
    """
    for name, child in module.named_modules():
        if isinstance(child, Neuron):
            raise PreconditionError(
                f"neuron {name} keeps state, which cannot be lowered: take a stateless_copy first"
            )
