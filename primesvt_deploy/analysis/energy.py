"""The field's estimate of the energy of an inference, from measured firing rates.

A layer that reads spikes adds weights up where a spike arrives: one accumulate for each spike and
each weight it meets. A layer that reads real numbers multiplies as well. Operations are priced as
32-bit float ones in 45 nm (Horowitz, ISSCC 2014), as Spikformer (Zhou et al., ICLR 2023) and
Spike-driven Transformer (Yao et al., NeurIPS 2023) do. Memory traffic, neurons and norms cost
nothing in it, so it compares networks and says nothing of a board's energy: `bench.power` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first

__all__ = [
    "ACCUMULATE_PICOJOULES",
    "MAC_PICOJOULES",
    "EnergyEstimate",
    "LayerEnergy",
    "estimate_energy",
]

MAC_PICOJOULES = 4.6
"""Of a 32-bit float multiplication, 3.7, and an addition, 0.9, in 45 nm."""
ACCUMULATE_PICOJOULES = 0.9
"""Of a 32-bit float addition in 45 nm."""
_SOURCES = (
    "Horowitz, Computing's energy problem, ISSCC 2014: 32-bit float in 45 nm",
    "Zhou et al., Spikformer, ICLR 2023",
    "Yao et al., Spike-driven Transformer, NeurIPS 2023",
)
_WHOLE = 1e-5
_ADDING = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
"""What they add the product to comes first."""


@dataclass(frozen=True, kw_only=True)
class LayerEnergy:
    """Products of one layer, for one image over all T timesteps.

    Args:
        layer: name of the module; a module's second product is `name #2`.
        macs: multiply-accumulates were it dense, those that meet padding included.
        operand: what it reads: `spikes`, or `real` numbers.
        rate: accumulates that one position of the operand brings to each of its weights, the mean
            count of spikes there: more than 1 is possible in a residual stream; None if real.
    """

    layer: str
    macs: int
    operand: str
    rate: float | None

    @property
    def operations(self) -> float:
        """Accumulates of spikes, or multiply-accumulates of real numbers."""
        return self.macs if self.rate is None else self.macs * self.rate

    @property
    def picojoules(self) -> float:
        """Of these operations."""
        price = MAC_PICOJOULES if self.rate is None else ACCUMULATE_PICOJOULES
        return price * self.operations

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.layer,
            "macs": self.macs,
            "operand": self.operand,
            "rate": None if self.rate is None else round(self.rate, 6),
            "operations": round(self.operations),
            "picojoules": round(self.picojoules, 1),
        }


@dataclass(frozen=True, kw_only=True)
class EnergyEstimate:
    """The estimate for one image over all T timesteps.

    Args:
        layers: in the order in which they run.
        n: images over which rates are means.
    """

    layers: tuple[LayerEnergy, ...]
    n: int

    @property
    def accumulates(self) -> float:
        """Of layers that read spikes."""
        return sum(layer.operations for layer in self.layers if layer.rate is not None)

    @property
    def macs(self) -> int:
        """Of layers that read real numbers."""
        return sum(layer.macs for layer in self.layers if layer.rate is None)

    @property
    def microjoules(self) -> float:
        """Of all these operations."""
        return sum(layer.picojoules for layer in self.layers) / 1e6

    @property
    def all_macs(self) -> int:
        """Multiply-accumulates of the same network, were every operation one."""
        return sum(layer.macs for layer in self.layers)

    @property
    def all_macs_microjoules(self) -> float:
        """Of the same network, were every operation of all timesteps a multiply-accumulate."""
        return MAC_PICOJOULES * self.all_macs / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "estimate": True,
            "n": self.n,
            "microjoules": round(self.microjoules, 6),
            "accumulates": round(self.accumulates),
            "macs": self.macs,
            "all_macs": self.all_macs,
            "all_macs_microjoules": round(self.all_macs_microjoules, 6),
            "mac_picojoules": MAC_PICOJOULES,
            "accumulate_picojoules": ACCUMULATE_PICOJOULES,
            "sources": list(_SOURCES),
            "layers": [layer.to_dict() for layer in self.layers],
        }


@torch.no_grad()
def estimate_energy(
    model: SViT, images: ImageList, *, batch_size: int | None = None
) -> EnergyEstimate:
    """Operations of `model` on `images` and what they would cost.

    Convolutions and matrix products are counted as they run once norms are folded; what a static
    image makes the same in every timestep runs once. As in the literature padding is ignored: a
    position at the border brings as many operations as any other. A product of two activations
    goes by its sparser operand that holds spikes, as only there anything is added. An operand
    holds spikes if a neuron fired before and its values are whole multiples of what a spike
    counts: residuals of spikes do, the image, membrane currents and means over tokens do not.

    Args:
        model: a trained SViT; left as it is.
        images: at least one.
        batch_size: images at once; chosen for memory if None.
    """
    size = batch_size or model.batch_of(32)
    lowered = lower_module(model.module)
    neurons = (m for m in model.module.modules() if isinstance(m, Neuron))
    operations = _Operations(lowered, {n.parameters_.spike_value for n in neurons})
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        with operations:
            lowered(time_first(torch.from_numpy(images.inputs(start, stop))))
    return EnergyEstimate(layers=tuple(operations.layers(len(images))), n=len(images))


@dataclass
class _Product:
    """Sums over runs of one product; `accumulates` is None once it read real numbers."""

    macs: int = 0
    accumulates: float | None = 0.0

    def add(self, macs: int, rate: float | None) -> None:
        self.macs += macs
        if rate is None or self.accumulates is None:
            self.accumulates = None
        else:
            self.accumulates += rate * macs


@dataclass
class _Call:
    """One call of a module, and how many products it ran itself so far."""

    name: str
    products: int = 0


class _Operations(TorchDispatchMode):
    """Counts the products of a lowered network while it is active.

    Args:
        network: lowered; hooks stay on it.
        units: what a spike may count.
    """

    def __init__(self, network: nn.Module, units: Iterable[float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The largest that fits: a whole number is a multiple of its fractions as well.
        self._units = sorted(units, reverse=True)
        self._calls: list[_Call] = []
        self._fired = False
        self._products: dict[tuple[str, int], _Product] = {}
        tensors = (*network.parameters(), *network.buffers())
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for name, module in network.named_modules():
            self._follow(name, module)

    def layers(self, images: int) -> Iterator[LayerEnergy]:
        """What was counted, for one of so many images."""
        for (name, number), product in self._products.items():
            if not product.macs:
                continue
            added = product.accumulates
            yield LayerEnergy(
                layer=name if number == 1 else f"{name} #{number}",
                macs=product.macs // images,
                operand="real" if added is None else "spikes",
                rate=None if added is None else added / product.macs,
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        if kind in flop_registry:
            flops = flop_registry[kind](*args, **(kwargs or {}), out_val=result)
            first = 1 if kind in _ADDING else 0
            self._count(flops // 2, args[first : first + 2])
        return result

    def _count(self, macs: int, operands: Sequence[torch.Tensor]) -> None:
        call = self._calls[-1]
        call.products += 1
        product = self._products.setdefault((call.name, call.products), _Product())
        rates = [rate for rate in map(self._rate, operands) if rate is not None]
        product.add(macs, min(rates, default=None))

    def _rate(self, operand: torch.Tensor) -> float | None:
        """Mean count of spikes; None for weights and real numbers."""
        if not self._fired or operand.untyped_storage().data_ptr() in self._weights:
            return None
        if bool((operand < 0).any()):
            return None
        for unit in self._units:
            counts = operand / unit
            off = (counts - counts.round()).abs()
            if bool((off <= _WHOLE * counts.clamp(min=1.0)).all()):
                return float(counts.mean(dtype=torch.float64))
        return None

    def _follow(self, name: str, module: nn.Module) -> None:
        """Keep track of which module runs, and whether a neuron has fired since the image came."""

        def enter(*_: object) -> None:
            if not self._calls:
                self._fired = False
            self._calls.append(_Call(name or type(module).__name__))

        def leave(*_: object) -> None:
            self._calls.pop()
            self._fired |= isinstance(module, UnrolledNeuron)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
