"""A small network of every family and form, for the tests that hold for all of them."""

from __future__ import annotations

import numpy as np
from small_models import make_model

from primesvt_deploy.families import FAMILIES, Family
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.maxformer import MaxFormerConfig
from primesvt_deploy.families.maxformer_checkpoint import MAXFORMER
from primesvt_deploy.families.qkformer import QKFormerConfig
from primesvt_deploy.families.qkformer_checkpoint import QKFORMER
from primesvt_deploy.families.sdt_v1 import SDTV1Config
from primesvt_deploy.families.sdt_v1_checkpoint import SDT_V1
from primesvt_deploy.families.sdt_v2 import SDTv2Config
from primesvt_deploy.families.sdt_v2_checkpoint import SDT_V2
from primesvt_deploy.families.sdt_v3 import SDTv3Config
from primesvt_deploy.families.sdt_v3_checkpoint import SDT_V3
from primesvt_deploy.families.sdt_v3_large import SDTv3LargeConfig
from primesvt_deploy.families.sdt_v3_large_checkpoint import SDT_V3_LARGE
from primesvt_deploy.families.sglformer import SGLFormerConfig
from primesvt_deploy.families.sglformer_checkpoint import SGLFORMER
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.families.spikformer_checkpoint import SPIKFORMER
from primesvt_deploy.families.spikingformer import SpikingformerConfig
from primesvt_deploy.families.spikingformer_checkpoint import SPIKINGFORMER, SPIKINGFORMER_CML
from primesvt_deploy.families.spikingresformer import SpikingResformerConfig
from primesvt_deploy.families.spikingresformer_checkpoint import SPIKINGRESFORMER
from primesvt_deploy.families.statten import STAttenConfig
from primesvt_deploy.families.statten_checkpoint import STATTEN
from primesvt_deploy.model.svit import SViT

__all__ = ["FORMS", "ZOO", "model_of", "samples_of"]

ZOO: dict[str, tuple[Family, NetworkConfig]] = {
    "spikformer, SpikingJelly": (
        SPIKFORMER,
        SpikformerConfig(
            timesteps=3,
            image_size=16,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=16,
            depth=2,
            pooling="0011",
            mlp_ratio=1.5,
        ),
    ),
    "spikformer, ImageNet form, soft reset": (
        SPIKFORMER,
        SpikformerConfig(
            timesteps=2,
            image_size=64,
            in_channels=3,
            num_classes=5,
            num_heads=4,
            embed_dim=16,
            depth=1,
            pooling="1111",
            pool_after_neuron=True,
            v_reset=None,
        ),
    ),
    "spikformer, frames": (
        SPIKFORMER,
        SpikformerConfig(
            timesteps=2,
            image_size=16,
            in_channels=2,
            num_classes=5,
            frames=True,
            num_heads=2,
            embed_dim=16,
            depth=1,
            pooling="0011",
        ),
    ),
    "spikingresformer, ImageNet form": (
        SPIKINGRESFORMER,
        SpikingResformerConfig(
            timesteps=2,
            image_size=32,
            in_channels=3,
            num_classes=5,
            embed_dims=(8, 16),
            depths=(1, 2),
            num_heads=(1, 2),
            patch_sizes=(4, 2),
            group_size=8,
        ),
    ),
    "spikingresformer, CIFAR form": (
        SPIKINGRESFORMER,
        SpikingResformerConfig(
            timesteps=3,
            image_size=8,
            in_channels=3,
            num_classes=5,
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(2, 4),
            patch_sizes=(2, 1),
            stem_kernel=3,
            group_size=16,
        ),
    ),
    "spikingresformer, frames, PLIF": (
        SPIKINGRESFORMER,
        SpikingResformerConfig(
            timesteps=2,
            image_size=8,
            in_channels=3,
            num_classes=5,
            frames=True,
            tau=1.6,
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(1, 2),
            patch_sizes=(2, 1),
            stem_kernel=3,
            group_size=32,
            parametric=True,
        ),
    ),
    "qkformer, ImageNet form": (
        QKFORMER,
        QKFormerConfig(
            timesteps=2,
            image_size=64,
            in_channels=3,
            num_classes=5,
            form="imagenet",
            stage_heads=(2, 4, 2),
            embed_dim=16,
            depths=(1, 2, 1),
            mlp_ratio=1.5,
        ),
    ),
    "qkformer, CIFAR form, channel attention, soft reset": (
        QKFORMER,
        QKFormerConfig(
            timesteps=2,
            image_size=16,
            in_channels=3,
            num_classes=5,
            v_reset=None,
            form="cifar",
            stage_heads=(2, 2, 4),
            embed_dim=16,
            depths=(1, 1, 2),
            qk_attention="channel",
            mlp_ratio=1.5,
        ),
    ),
    "qkformer, DVS form, frames": (
        QKFORMER,
        QKFormerConfig(
            timesteps=2,
            image_size=48,
            in_channels=2,
            num_classes=5,
            frames=True,
            form="dvs",
            stage_heads=(8, 4),
            embed_dim=32,
            depths=(1, 1),
            mlp_ratio=1.5,
        ),
    ),
    "sdt-v1": (
        SDT_V1,
        SDTV1Config(
            timesteps=3,
            image_size=16,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=16,
            depth=2,
            pooling="0011",
            mlp_ratio=1.5,
        ),
    ),
    "sdt-v1, ImageNet form, soft reset": (
        SDT_V1,
        SDTV1Config(
            timesteps=2,
            image_size=32,
            in_channels=3,
            num_classes=5,
            embed_dim=16,
            depth=1,
            pooling="1111",
            v_reset=None,
        ),
    ),
    "sdt-v1, a shortcut around each layer of the MLP": (
        SDT_V1,
        SDTV1Config(
            timesteps=2,
            image_size=16,
            in_channels=3,
            num_classes=5,
            embed_dim=16,
            depth=1,
            pooling="0011",
            mlp_ratio=1.0,
        ),
    ),
    "sdt-v1, frames": (
        SDT_V1,
        SDTV1Config(
            timesteps=2,
            image_size=16,
            in_channels=2,
            num_classes=5,
            frames=True,
            embed_dim=16,
            depth=1,
            pooling="0111",
        ),
    ),
    "sdt-v1, frames, pooled attention": (
        SDT_V1,
        SDTV1Config(
            timesteps=2,
            image_size=16,
            in_channels=2,
            num_classes=10,
            frames=True,
            num_heads=2,
            embed_dim=16,
            depth=1,
            pooling="0011",
            pooled_attention=True,
        ),
    ),
    "statten": (
        STATTEN,
        STAttenConfig(
            timesteps=4,
            image_size=12,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=16,
            depth=1,
            pooling="0011",
            mlp_ratio=1.5,
            attention_mode="STAtten",
            chunk_size=2,
        ),
    ),
    "statten, frames, pooled attention": (
        STATTEN,
        STAttenConfig(
            timesteps=3,
            image_size=16,
            in_channels=2,
            num_classes=5,
            frames=True,
            num_heads=2,
            embed_dim=16,
            depth=1,
            pooling="0011",
            mlp_ratio=1.5,
            pooled_attention=True,
            attention_mode="STAtten",
            chunk_size=3,
        ),
    ),
    "maxformer": (
        MAXFORMER,
        MaxFormerConfig(
            timesteps=2,
            image_size=48,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=32,
            depths=(1, 2, 2),
            mlp_ratio=1.5,
        ),
    ),
    "maxformer, SpikingJelly's ImageNet form, frames": (
        MAXFORMER,
        MaxFormerConfig(
            timesteps=2,
            image_size=48,
            in_channels=2,
            num_classes=5,
            frames=True,
            num_heads=2,
            embed_dim=32,
            depths=(1, 1, 1),
            attention_on_spikes=False,
            mlp_ratio=1.0,
        ),
    ),
    "maxformer, CIFAR form, soft reset": (
        MAXFORMER,
        MaxFormerConfig(
            timesteps=3,
            image_size=16,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=32,
            depths=(1, 1, 2),
            cifar=True,
            mlp_ratio=2.0,
            v_reset=None,
        ),
    ),
    "sdt-v2": (
        SDT_V2,
        SDTv2Config(
            timesteps=2,
            image_size=32,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            widths=(4, 4, 8, 12, 16),
            depths=(1, 1, 1, 1, 1),
            mlp_ratio=2.0,
        ),
    ),
    "sdt-v2, frames, two heads": (
        SDT_V2,
        SDTv2Config(
            timesteps=2,
            image_size=48,
            in_channels=2,
            num_classes=5,
            frames=True,
            num_heads=4,
            widths=(4, 4, 8, 8, 16),
            depths=(1, 1, 2, 1, 1),
            mlp_ratio=2.0,
            distilled=True,
        ),
    ),
    "sdt-v3": (
        SDT_V3,
        SDTv3Config(
            image_size=48,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            widths=(4, 6, 8, 12, 16),
            depths=(1, 1, 2, 1, 1),
            mlp_ratio=1.5,
            v_ratio=2.0,
        ),
    ),
    "sdt-v3-large, two heads": (
        SDT_V3_LARGE,
        SDTv3LargeConfig(
            image_size=32,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            widths=(4, 6, 8, 12),
            depths=(1, 1, 2, 1),
            mlp_ratio=1.5,
            rep_conv=True,
            distilled=True,
        ),
    ),
    "sdt-v3-large, 8 levels, one head": (
        SDT_V3_LARGE,
        SDTv3LargeConfig(
            image_size=32,
            in_channels=3,
            num_classes=5,
            num_heads=4,
            widths=(4, 6, 8, 12),
            depths=(1, 1, 2, 1),
            levels=8,
            attention_scale=1.0,
        ),
    ),
    "sglformer": (
        SGLFORMER,
        SGLFormerConfig(
            timesteps=2,
            image_size=16,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=16,
            stem_width=2,
            depth=1,
            global_blocks=2,
            pooling="00011",
            mlp_ratio=1.5,
            weighs_timesteps=True,
        ),
    ),
    "sglformer, ImageNet form, soft reset": (
        SGLFORMER,
        SGLFormerConfig(
            timesteps=3,
            image_size=16,
            in_channels=3,
            num_classes=5,
            v_reset=None,
            num_heads=2,
            embed_dim=16,
            stem_width=2,
            depth=1,
            global_blocks=1,
            pooling="01010",
            mlp_ratio=1.5,
        ),
    ),
    "spikingformer, CIFAR form": (
        SPIKINGFORMER,
        SpikingformerConfig(
            timesteps=3,
            image_size=16,
            in_channels=3,
            num_classes=5,
            num_heads=2,
            embed_dim=32,
            depth=2,
            pooling="0011",
            mlp_ratio=1.5,
        ),
    ),
    "spikingformer, frames": (
        SPIKINGFORMER,
        SpikingformerConfig(
            timesteps=2,
            image_size=32,
            in_channels=2,
            num_classes=5,
            frames=True,
            tau=1.5,
            num_heads=2,
            embed_dim=32,
            depth=1,
            pooling="1111",
        ),
    ),
    "spikingformer-cml, ImageNet form, soft reset": (
        SPIKINGFORMER_CML,
        SpikingformerConfig(
            timesteps=2,
            image_size=48,
            in_channels=3,
            num_classes=5,
            v_reset=None,
            num_heads=2,
            embed_dim=32,
            depth=1,
            pooling="1111",
            mlp_ratio=1.0,
        ),
    ),
}

FORMS = [next(n for n, (family, _) in ZOO.items() if family is wanted) for wanted in FAMILIES]
"""One network of each family."""


def model_of(name: str) -> SViT:
    """That network with live weights."""
    family, config = ZOO[name]
    return make_model(config, family=family)


def samples_of(model: SViT, count: int) -> np.ndarray:
    """As data sets give them: `[N, C, H, W]`, or frames as `[N, T, C, H, W]`."""
    steps = (model.timesteps,) if model.config.frames else ()
    shape = (count, *steps, *model.config.input_shape)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)
