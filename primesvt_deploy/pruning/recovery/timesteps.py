"""Run a trained or pruned model for fewer timesteps, with its norms matched to that.

With fewer steps membranes have less time to charge and fewer neurons fire. As after pruning, each
norm is re-estimated on calibration images so that it passes on, at the new T, the mean and
deviation that it did at the old one (`batchnorm`).
"""

from __future__ import annotations

import copy

import torch

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pruning.recovery.batchnorm import NORMS, matched_norms, recorded_norms

__all__ = ["with_timesteps"]


@torch.no_grad()
def with_timesteps(
    model: SViT,
    timesteps: int,
    samples: torch.Tensor | None = None,
    *,
    device: torch.device = CPU,
) -> SViT:
    """`model` at another T.

    Args:
        model: a SViT of static images; it is not touched.
        timesteps: 1 to the model's own.
        samples: preprocessed calibration samples as data sets give them, one batch; None: norms
            stay as they are.
        device: that calibration is done on.

    Raises:
        ModelError: see `SViT.at_timesteps`.
    """
    fewer = model.at_timesteps(timesteps)
    if fewer is model or samples is None:
        return fewer
    batch = time_first(samples).to(device)
    before = lower_module(model.module, fold_norms=False).to(device)
    with recorded_norms(before) as whole:
        before(batch)
    network = lower_module(fewer.module, fold_norms=False).to(device)
    with matched_norms(network, whole):
        network(batch)
    module = copy.deepcopy(fewer.module)
    for name, norm in network.named_modules():
        if isinstance(norm, NORMS):
            module.get_submodule(name).load_state_dict(norm.state_dict())
    return fewer.with_module(module)
