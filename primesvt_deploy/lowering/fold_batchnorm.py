"""Fold batch norm and the neuron's input gain into the weights before them.

Batch norm in evaluation is affine per channel, `y = s (W x - mean) + beta` with
`s = gamma / sqrt(var + eps)`, so `W' = s W`, `b' = beta - s mean`. A LIF neuron with
`decay_input` multiplies its input by g = 1/tau > 0, which commutes with max pooling, so
`W'' = g W'`, `b'' = g b'` (exact in floating point where tau is a power of two).
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from primesvt_deploy.families.blocks.neuron import Neuron, SequenceNeuron
from primesvt_deploy.families.blocks.units import ConvBN
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron, UnrolledSequence

__all__ = ["lower"]

_Module = TypeVar("_Module", bound=nn.Module)


@runtime_checkable
class _AbsorbsGain(Protocol):
    """A unit that can scale what its neuron receives."""

    neuron: nn.Module

    def absorb_gain(self, gain: float) -> None: ...


@runtime_checkable
class _Simplifies(Protocol):
    """A module that has a cheaper form of the same outputs once its norms are folded."""

    def simplify_folded(self) -> None: ...


def lower(module: _Module, *, fold_norms: bool = True) -> _Module:
    """A copy of `module` of plain arithmetic: norms folded, neurons unrolled; same outputs.

    Neurons whose unit has `absorb_gain` end with gain 1. The argument is left as it is.

    Args:
        module: a network, or a part of one.
        fold_norms: False: neurons are unrolled and all else stays as it is.
    """
    lowered = copy.deepcopy(module).eval().requires_grad_(False)
    for unit in list(lowered.modules()):
        if isinstance(unit, ConvBN) and fold_norms:
            _fold_norms(unit)
        for name, child in list(unit.named_children()):
            if isinstance(child, Neuron):
                unrolled = UnrolledSequence if isinstance(child, SequenceNeuron) else UnrolledNeuron
                setattr(unit, name, unrolled(ChargeFireReset.of(child), used=child.used))
        if not (fold_norms and isinstance(unit, _AbsorbsGain)):
            continue
        if isinstance(unit.neuron, UnrolledNeuron):
            unit.absorb_gain(unit.neuron.give_up_gain())
    for unit in lowered.modules():
        if isinstance(unit, _Simplifies) and fold_norms:
            unit.simplify_folded()
    return lowered


def _fold_norms(unit: ConvBN) -> None:
    for name in ("bn", "norm2"):
        norm = getattr(unit, name, None)
        if isinstance(norm, nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(unit.conv, norm)
            setattr(unit, name, nn.Identity())
    scale = getattr(unit, "scale", None)
    if isinstance(scale, nn.Conv2d):
        factor = scale.weight.detach()
        unit.conv.weight.data.mul_(factor)
        if unit.conv.bias is not None:
            unit.conv.bias.data.mul_(factor.flatten())
        unit.scale = nn.Identity()
