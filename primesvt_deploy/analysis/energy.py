"""Estimate of an inference's energy, from measured firing rates, as the SNN literature has it.

A layer whose input is spikes adds weights up where a spike arrives: one accumulate for each spike
and each weight it meets. A layer whose input is floating-point values multiplies as well.
Operations are priced as 32-bit float ones in 45 nm (Horowitz, ISSCC 2014), as Spikformer (Zhou et
al., ICLR 2023) and Spike-driven Transformer (Yao et al., NeurIPS 2023) do. Memory traffic, neurons
and norms cost nothing, so the estimate compares networks; it is not the energy of a board, which
`edge.bench.power` measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.recording import running_owner
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress

__all__ = [
    "ACCUMULATE_PICOJOULES",
    "MAC_PICOJOULES",
    "EnergyEstimate",
    "LayerEnergy",
    "estimate_energy",
]

MAC_PICOJOULES = 4.6
"""Energy, pJ, of a 32-bit float multiplication (3.7) and addition (0.9) in 45 nm."""
ACCUMULATE_PICOJOULES = 0.9
"""Energy, pJ, of a 32-bit float addition in 45 nm."""
_SOURCES = (
    "Horowitz, Computing's energy problem, ISSCC 2014: 32-bit float in 45 nm",
    "Zhou et al., Spikformer, ICLR 2023",
    "Yao et al., Spike-driven Transformer, NeurIPS 2023",
)
_WHOLE = 1e-5
"""Largest relative distance of a value from a whole number of spikes."""
_ADDING = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
"""Products whose first operand is added to the product."""


@dataclass(frozen=True, kw_only=True)
class LayerEnergy:
    """Operations of one layer for one image over all T timesteps, and their energy.

    Args:
        layer: name of the module; a module's second product is `name #2`.
        macs: multiply-accumulates were every operation one, those that meet padding included.
        operand: kind of the layer's input: `spikes`, or `real` (floating-point values).
        rate: mean number of spikes at a position of the input, and so of accumulates for each
            weight it meets: more than 1 is possible in a residual stream; None if `real`.
    """

    layer: str
    macs: int
    operand: str
    rate: float | None

    @property
    def operations(self) -> float:
        """Number of accumulates (of spikes) or multiply-accumulates (of floating-point values)."""
        return self.macs if self.rate is None else self.macs * self.rate

    @property
    def picojoules(self) -> float:
        """Energy of these operations, pJ."""
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


@dataclass(frozen=True, kw_only=True, repr=False)
class EnergyEstimate:
    """Estimated energy of a model for one image over all T timesteps.

    Args:
        layers: its layers, in the order in which they run.
        n: number of images that firing rates were measured on.
    """

    layers: tuple[LayerEnergy, ...]
    n: int

    def __repr__(self) -> str:
        """Its sum, without the layers."""
        return f"EnergyEstimate({self.microjoules:.3g} uJ an image, {len(self.layers)} layers)"

    @property
    def accumulates(self) -> float:
        """Number of accumulates, in layers whose input is spikes."""
        return sum(layer.operations for layer in self.layers if layer.rate is not None)

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates, in layers whose input is floating-point values."""
        return sum(layer.macs for layer in self.layers if layer.rate is None)

    @property
    def microjoules(self) -> float:
        """Energy of all these operations, uJ."""
        return sum(layer.picojoules for layer in self.layers) / 1e6

    @property
    def all_macs(self) -> int:
        """Number of operations of the same network, were every one a multiply-accumulate."""
        return sum(layer.macs for layer in self.layers)

    @property
    def all_macs_microjoules(self) -> float:
        """Energy, uJ, of the same network, were every operation a multiply-accumulate."""
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
    model: SViT,
    images: ImageList,
    *,
    batch_size: int | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> EnergyEstimate:
    """Estimate the energy of `model` from its spikes on `images`.

    Convolutions and matrix products are counted as they run once norms are folded; those that are
    the same in every timestep of a static image run once. As in the literature padding is ignored:
    a position at the border brings as many operations as any other. A product of two activations
    goes by its sparser operand that holds spikes, as only there anything is added. An operand
    holds spikes if a neuron fired before and its values are whole multiples of a spike's value:
    residuals of spikes do, the image, membrane currents and means over tokens do not.

    Args:
        model: a trained SViT, or a quantized one; not changed.
        images: preprocessed images, at least one.
        batch_size: images at once; None: chosen for memory.
        device: that the model runs on.
        progress: gets the images done; no step.
    """
    size = batch_size or model.batch_of(32)
    lowered = lower_module(model.module).to(device)
    images = images.for_model(model.sample_dtype)
    neurons = (m for m in lowered.modules() if isinstance(m, UnrolledNeuron))
    operations = _Operations(lowered, {n.constants.spike_value for n in neurons})

    def run(start: int, stop: int) -> None:
        operations.count(time_first(torch.from_numpy(images.inputs(start, stop))).to(device))
        progress.advance(stop, len(images))

    FittingBatches(progress.message).each(run, len(images), size)
    return EnergyEstimate(layers=tuple(operations.layers(len(images))), n=len(images))


@dataclass
class _Product:
    """Sums over runs of one product; `accumulates` is None once an input was floating-point."""

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
    """A call of a module that still runs, and the number of products it ran itself so far.

    Args:
        name: of the module.
        recorded: whether it runs a record of other modules' code.
        products: by name of the module whose code ran them.
    """

    name: str
    recorded: bool = False
    products: Counter[str] = field(default_factory=Counter)

    @property
    def running(self) -> str:
        """Name of the module whose code runs now."""
        inside = running_owner() if self.recorded else ""
        return f"{self.name}.{inside}" if inside else self.name


class _Operations(TorchDispatchMode):
    """Counts the products of a lowered network while this mode is active.

    Args:
        network: lowered network; hooks stay on it.
        units: values that one spike may have.
    """

    def __init__(self, network: nn.Module, units: Iterable[float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._network = network
        # The largest first: multiples of 1 are multiples of 1/2 as well.
        self._units = sorted(units, reverse=True)
        self._calls: list[_Call] = []
        self._fired = False
        self._products: dict[tuple[str, int], _Product] = {}
        tensors = (*network.parameters(), *network.buffers())
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for name, module in network.named_modules():
            self._follow(name, module)

    def count(self, batch: torch.Tensor) -> None:
        """Run a batch and count its products; none of them where it runs out of memory."""
        before = {key: replace(product) for key, product in self._products.items()}
        try:
            with self:
                self._network(batch)
        except torch.OutOfMemoryError:
            self._calls.clear()
            self._products = before
            raise

    def layers(self, images: int) -> Iterator[LayerEnergy]:
        """Operations of each layer for one image.

        Args:
            images: number of images that ran.
        """
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
        name = call.running
        call.products[name] += 1
        product = self._products.setdefault((name, call.products[name]), _Product())
        rates = [rate for rate in map(self._rate, operands) if rate is not None]
        product.add(macs, min(rates, default=None))

    def _rate(self, operand: torch.Tensor) -> float | None:
        """Mean number of spikes at a position; None for weights and floating-point values."""
        if not self._fired or operand.untyped_storage().data_ptr() in self._weights:
            return None
        if bool((operand < 0).any()):
            return None
        for unit in self._units:
            spikes = operand / unit
            off = (spikes - spikes.round()).abs()
            if bool((off <= _WHOLE * spikes.clamp(min=1.0)).all()):
                return float(spikes.mean(dtype=torch.float64))
        return None

    def _follow(self, name: str, module: nn.Module) -> None:
        """Track by hooks which module runs, and whether a neuron has fired since the image came."""

        def enter(*_: object) -> None:
            if not self._calls:
                self._fired = False
            # A recorded module's own operations run in the network around it.
            recorded = isinstance(module, AdoptedNetwork)
            self._calls.append(
                _Call(name or ("net" if recorded else type(module).__name__), recorded)
            )

        def leave(*_: object) -> None:
            self._calls.pop()
            self._fired |= isinstance(module, UnrolledNeuron)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
