"""Networks at the widths of published ImageNet models, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from primesvt_deploy.families import family_named
from primesvt_deploy.model.preprocessing import InputOptions, input_steps
from primesvt_deploy.model.svit import SViT

_COMMON: dict[str, Any] = {"timesteps": 4, "image_size": 224, "in_channels": 3, "num_classes": 1000}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Spikformer-8-512": (
        "spikformer",
        {
            "embed_dim": 512,
            "depth": 8,
            "num_heads": 8,
            "pooling": "1111",
            "pool_after_neuron": True,
        },
    ),
    "SDT-8-512": (
        "sdt-v1",
        {"embed_dim": 512, "depth": 8, "num_heads": 8, "pooling": "1111"},
    ),
    "SDTv2 15.1M": (
        "sdt-v2",
        {"widths": (32, 64, 128, 256, 360), "depths": (1, 1, 2, 6, 2), "num_heads": 8},
    ),
    "SDTv2 31.3M": (
        "sdt-v2",
        {"widths": (48, 96, 192, 384, 480), "depths": (1, 1, 2, 6, 2), "num_heads": 8},
    ),
    "QKFormer-10-384": (
        "qkformer",
        {"form": "imagenet", "stage_heads": (6, 6, 6), "embed_dim": 384, "depths": (1, 2, 7)},
    ),
    "SpikingResformer-Ti": (
        "spikingresformer",
        {
            "embed_dims": (64, 192, 384),
            "depths": (1, 2, 3),
            "num_heads": (1, 3, 6),
            "patch_sizes": (4, 2, 1),
        },
    ),
}


def network(name: str) -> SViT:
    """SViT of `MODELS` by its name, with random weights."""
    family_name, arguments = MODELS[name]
    family = family_named(family_name)
    config = family.config_type.from_dict({**_COMMON, **arguments})
    return SViT(
        name=name,
        family=family,
        config=config,
        module=_alive(family.build(config)),
        preprocessing=input_steps(family.inputs, config, InputOptions()),
        labels=tuple(str(i) for i in range(config.num_classes)),
    )


@torch.no_grad()
def _alive(module: Any, seed: int = 0) -> Any:
    """Set random weights and norms with which neurons fire sometimes."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            shape = layer.weight.shape
            layer.weight.copy_(0.8 + 1.2 * torch.rand(shape, generator=generator))
            layer.bias.copy_(0.2 + 0.6 * torch.rand(shape, generator=generator))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            noise = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_(noise * (2.0 / layer.weight[0].numel()) ** 0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("firing_rate"):
            buffer.fill_(0.2)
    return module.eval()
