"""Firing rates and energy estimates by layer, of the dense and the shipped model."""

from __future__ import annotations

import torch

from primesvt_deploy.analysis.energy import estimate_energy
from primesvt_deploy.analysis.firing import measure_firing_rates
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.report.content import LayerEnergy, LayerFiring

__all__ = ["layer_energy", "layer_firing"]

_DIGITS = 6


def layer_firing(
    dense: SViT, shipped: SViT, images: ImageList, device: torch.device = CPU
) -> tuple[LayerFiring, ...]:
    """Firing rates, of layers in the order in which the dense model calls them.

    Args:
        dense: the dense model.
        shipped: what the artifact computes, in torch; the dense model itself where it is shipped.
        images: that rates are means over.
        device: that the models run on.
    """
    before = {rate.layer: rate for rate in measure_firing_rates(dense, images, device=device)}
    after = before
    if shipped is not dense:
        after = {rate.layer: rate for rate in measure_firing_rates(shipped, images, device=device)}
    rows = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        rows.append(
            LayerFiring(
                layer=name,
                dense=None if old is None else round(old.rate, _DIGITS),
                shipped=None if new is None else round(new.rate, _DIGITS),
                by_timestep=tuple(round(r, _DIGITS) for r in new.by_timestep) if new else (),
                channels=new.channels if new else 0,
                silent=new.silent if new else 0,
                constant=new.constant if new else 0,
            )
        )
    return tuple(rows)


def layer_energy(
    dense: SViT, shipped: SViT, images: ImageList, device: torch.device = CPU
) -> tuple[LayerEnergy, ...]:
    """Energy estimates, of layers in the order in which the dense model runs them.

    Weights of fewer bits are priced as float ones: estimates compare spikes, not number formats.

    Args:
        dense: the dense model.
        shipped: as `layer_firing` takes it.
        images: that firing rates are measured on.
        device: that the models run on.
    """
    before = _picojoules(dense, images, device)
    after = before if shipped is dense else _picojoules(shipped, images, device)
    return tuple(
        LayerEnergy(layer=name, dense=before.get(name), shipped=after.get(name))
        for name in dict.fromkeys((*before, *after))
    )


def _picojoules(model: SViT, images: ImageList, device: torch.device) -> dict[str, float]:
    layers = estimate_energy(model, images, device=device).layers
    return {layer.layer: round(layer.picojoules, 1) for layer in layers}
