"""Top-1 accuracy of a network while it is trained."""

from __future__ import annotations

import numpy as np
import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.measure.intervals import Accuracy

__all__ = ["accuracy"]

_BATCH = 64


@torch.no_grad()
def accuracy(
    network: SpikingNetwork, images: ImageList, timesteps: int, device: torch.device
) -> Accuracy:
    """Top-1 of a network in float32; it is left in evaluation mode, at these timesteps.

    Args:
        network: on `device`.
        images: what to classify.
        timesteps: T to run at.
        device: where to run.
    """
    network.eval()
    set_timesteps(network, timesteps)
    hits = []
    for start in range(0, len(images), _BATCH):
        stop = min(start + _BATCH, len(images))
        batch = torch.from_numpy(images.inputs(start, stop)).to(device)
        predicted = network(batch.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
        hits.append(predicted.cpu().numpy() == images.labels[start:stop])
    return Accuracy.of(np.concatenate(hits))
