"""Size of a model, in parameters and bytes, and its multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from primesvt_deploy.analysis.groups import Group, Member
from primesvt_deploy.lowering.integer.int4_packing import GROUP
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT

__all__ = ["BYTES_PER_PARAMETER", "Cost", "ShippedSize", "measure_cost"]

BYTES_PER_PARAMETER = 4
"""Bytes of a parameter in fp32."""
_NO_LAYERS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters and operations of one model.

    Args:
        parameters: parameters of the torch module (the memory metric of the PrimeSVT paper is 4
            bytes for each).
        shipped_parameters: parameters after folding batch norms, which an artifact stores.
        macs: multiply-accumulates of convolutions and matrix products for one sample over all T
            timesteps; products that are the same in every timestep of a static image count once.
    """

    parameters: int
    shipped_parameters: int
    macs: int

    @property
    def parameter_bytes(self) -> int:
        """Bytes of `parameters` in fp32."""
        return BYTES_PER_PARAMETER * self.parameters

    @property
    def shipped_bytes(self) -> int:
        """Bytes of `shipped_parameters` in fp32."""
        return BYTES_PER_PARAMETER * self.shipped_parameters

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "shipped_parameters": self.shipped_parameters,
            "macs": self.macs,
        }


def measure_cost(model: SViT) -> Cost:
    """Count the parameters and multiply-accumulates of `model`."""
    lowered = lower_module(model.module)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        lowered(model.config.example(1))
    return Cost(
        parameters=_count(model.module),
        shipped_parameters=_count(lowered),
        macs=counter.get_total_flops() // 2,
    )


class ShippedSize:
    """Predicts the size of an artifact whose groups have other widths, without cutting.

    Args:
        model: the dense SViT, with batch norms or lowered.
        groups: its prunable groups.
        bits: bits of a weight, 16, 8 or 4, of each quantized layer by name; other layers have 32.
    """

    def __init__(
        self, model: SViT, groups: Sequence[Group], bits: Mapping[str, int] = _NO_LAYERS
    ) -> None:
        lowered = lower_module(model.module)
        self._bits = bits
        self._shapes = {n: tuple(p.shape) for n, p in lowered.named_parameters()}
        self._slices = {n: getattr(layer, "groups", 1) for n, layer in lowered.named_modules()}
        self._members: dict[Member, list[Group]] = {}
        for group in groups:
            for member in group.members():
                self._members.setdefault(member, []).append(group)

    def parameters(self, widths: Mapping[str, int]) -> int:
        """Number of weights and biases that are left.

        Args:
            widths: channels that are left of a group, by its name; other groups stay whole.
        """
        return sum(self._numel(name, shape, widths) for name, shape in self._shapes.items())

    def bytes(self, widths: Mapping[str, int]) -> int:
        """Bytes of the weights, their scales, and the biases that are left.

        Weights of fewer bits have a float32 scale for each output channel; those of 4 bits have a
        byte for each `int4_packing.GROUP` of them as well.

        Args:
            widths: channels that are left of a group, by its name; other groups stay whole.
        """
        return sum(self.by_layer(widths).values())

    def by_layer(self, widths: Mapping[str, int]) -> dict[str, int]:
        """These bytes by the layer that owns them, in the order in which layers were made.

        Args:
            widths: as `bytes` takes them.

        Returns:
            Bytes by name of the module; of a tensor that the network itself owns, by its own name.
        """
        found: dict[str, int] = {}
        for name, shape in self._shapes.items():
            layer = name.rpartition(".")[0] or name
            stored = self._tensor_bytes(name, self._sizes(name, shape, widths))
            found[layer] = found.get(layer, 0) + stored
        return found

    def _tensor_bytes(self, name: str, sizes: Sequence[int]) -> int:
        layer, _, tensor = name.rpartition(".")
        count = math.prod(sizes)
        if tensor != "weight" or layer not in self._bits:
            return BYTES_PER_PARAMETER * count
        scales = BYTES_PER_PARAMETER * sizes[0]
        if self._bits[layer] >= 8:
            return scales + count * self._bits[layer] // 8
        groups = -(-(count // sizes[0]) // GROUP) * sizes[0]
        return scales + groups * (GROUP // 2 + 1)

    def _numel(self, name: str, shape: tuple[int, ...], widths: Mapping[str, int]) -> int:
        return math.prod(self._sizes(name, shape, widths))

    def _sizes(self, name: str, shape: tuple[int, ...], widths: Mapping[str, int]) -> list[int]:
        layer, _, tensor = name.rpartition(".")
        sizes = list(shape)
        if not sizes:
            return sizes  # a single number
        sizes[0] -= self._gone(("out", layer), widths) + self._gone(("norm", layer), widths)
        # In a grouped convolution each output has weights for its own slice of the inputs.
        slices = self._slices.get(layer, 1)
        if tensor == "weight" and len(sizes) > 1 and (sizes[1] > 1 or slices == 1):
            sizes[1] -= self._gone(("in", layer), widths) // slices
        for axis in range(len(sizes)):
            sizes[axis] -= self._gone((f"axis {axis}", name), widths)
        return sizes

    def _gone(self, member: Member, widths: Mapping[str, int]) -> int:
        """Channels that a side of a layer loses."""
        return sum(
            (group.width - widths.get(group.name, group.width)) * group.share(member)
            for group in self._members.get(member, ())
        )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
