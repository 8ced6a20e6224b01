"""Fold batch norm and the neuron's input gain into the weights before them.

Batch norm in evaluation is affine per channel, `y = s (W x - mean) + beta` with
`s = gamma / sqrt(var + eps)`, so `W' = s W`, `b' = beta - s mean`. A LIF neuron with
`decay_input` multiplies its input by g = 1/tau > 0, which commutes with max pooling, so
`W'' = g W'`, `b'' = g b'` (exact in floating point where tau is a power of two).
"""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from primesvt_deploy.families.units import ConvBNNeuron, Neuron
from primesvt_deploy.lowering.neurons import ChargeFireReset, UnrolledNeuron

__all__ = ["lower"]


@runtime_checkable
class _AbsorbsGain(Protocol):
    """A unit that can scale what its neuron receives."""

    neuron: nn.Module

    def absorb_gain(self, gain: float) -> None: ...


def lower(module: nn.Module) -> nn.Module:
    """A copy of `module` of plain arithmetic: norms folded, neurons unrolled; same outputs.

    Neurons whose unit has `absorb_gain` end with gain 1. The argument is left as it is.
    """
    lowered = copy.deepcopy(module).eval().requires_grad_(False)
    for unit in list(lowered.modules()):
        if isinstance(unit, ConvBNNeuron) and isinstance(unit.bn, nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
            unit.bn = nn.Identity()
        for name, child in list(unit.named_children()):
            if isinstance(child, Neuron):
                setattr(unit, name, UnrolledNeuron(ChargeFireReset.of(child)))
        if isinstance(unit, _AbsorbsGain) and isinstance(unit.neuron, UnrolledNeuron):
            unit.absorb_gain(unit.neuron.give_up_gain())
    return lowered
