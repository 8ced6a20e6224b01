"""Fold batch norm and the neuron's input gain into the weights before them.

Batch norm in evaluation is affine per channel, `y = s (W x - mean) + beta` with
`s = gamma / sqrt(var + eps)`, so `W' = s W`, `b' = beta - s mean`. A LIF neuron with
`decay_input` multiplies its input by g = 1/tau > 0, which commutes with max pooling, so
`W'' = g W'`, `b'' = g b'` (exact in floating point where tau is a power of two).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from primesvt_deploy.families.blocks.units import ConvBN
from primesvt_deploy.lowering.contract import (
    ModulePassResult,
    PostconditionError,
    PreconditionError,
)
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.stateless import require_stateless

__all__ = ["fold_batchnorm"]

_NORMS = ("bn", "norm2")


@runtime_checkable
class _AbsorbsGain(Protocol):
    """A unit that can scale what its neuron receives."""

    neuron: nn.Module

    def absorb_gain(self, gain: float) -> None: ...


@runtime_checkable
class _Simplifies(Protocol):
    """A module that has a cheaper form of the same outputs once its norms are folded."""

    def simplify_folded(self) -> None: ...


def fold_batchnorm(module: nn.Module) -> ModulePassResult:
    """Fold the norms, channel scales and input gains of a module's units, in place; same outputs.

    Requires that the neurons are stateless (`stateless`) and that every norm of a unit is in
    evaluation mode and has running statistics. Ensures that no unit has a norm or a channel scale
    left, and that neurons whose unit can absorb their gain have gain 1.

    Args:
        module: a network, or a part of one.

    Returns:
        Whether anything was folded.

    Raises:
        PreconditionError: a neuron keeps state, or a norm cannot be folded; it is named.
        PostconditionError: something foldable is left.
    """
    _check_foldable(module)
    modified = False
    for unit in list(module.modules()):
        if isinstance(unit, ConvBN):
            modified |= _fold_norms(unit)
            modified |= _fold_scale(unit)
        if isinstance(unit, _AbsorbsGain) and isinstance(unit.neuron, UnrolledNeuron):
            gain = unit.neuron.give_up_gain()
            if gain != 1.0:
                unit.absorb_gain(gain)
                modified = True
    # What was folded before has been simplified with it.
    for unit in module.modules() if modified else ():
        if isinstance(unit, _Simplifies):
            unit.simplify_folded()
    _check_folded(module)
    return ModulePassResult(modified)


def _fold_norms(unit: ConvBN) -> bool:
    norms = [name for name in _NORMS if isinstance(getattr(unit, name, None), nn.BatchNorm2d)]
    for name in norms:
        unit.conv = fuse_conv_bn_eval(unit.conv, getattr(unit, name))
        setattr(unit, name, nn.Identity().eval())
    return bool(norms)


def _fold_scale(unit: ConvBN) -> bool:
    scale = getattr(unit, "scale", None)
    if not isinstance(scale, nn.Conv2d):
        return False
    factor = scale.weight.detach()
    unit.conv.weight.data.mul_(factor)
    if unit.conv.bias is not None:
        unit.conv.bias.data.mul_(factor.flatten())
    unit.scale = nn.Identity().eval()
    return True


def _check_foldable(module: nn.Module) -> None:
    require_stateless(module)
    for name, norm in _norms(module):
        if norm.training:
            raise PreconditionError(f"{name} is in training mode: only .eval() norms can be folded")
        if norm.running_mean is None or norm.running_var is None:
            raise PreconditionError(
                f"{name} has no running statistics: it normalizes by each batch, which no weights "
                "can; train it with track_running_stats=True"
            )


def _check_folded(module: nn.Module) -> None:
    for name, _ in _norms(module):
        raise PostconditionError(f"{name} is still there after its norm was folded")
    for name, unit in module.named_modules():
        if isinstance(unit, ConvBN) and isinstance(getattr(unit, "scale", None), nn.Conv2d):
            raise PostconditionError(f"{name}.scale is still there after it was folded")
        if isinstance(unit, _AbsorbsGain) and isinstance(unit.neuron, UnrolledNeuron):
            gain = unit.neuron.constants.gain
            if gain != 1.0:
                raise PostconditionError(f"{name}.neuron still multiplies its input by {gain:g}")


def _norms(module: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every batch norm of a unit, with its name."""
    for prefix, unit in module.named_modules():
        if isinstance(unit, ConvBN):
            for attribute in _NORMS:
                norm = getattr(unit, attribute, None)
                if isinstance(norm, nn.BatchNorm2d):
                    yield f"{prefix}.{attribute}".removeprefix("."), norm
