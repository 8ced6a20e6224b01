"""Network of STAtten (Lee et al., CVPR 2025): Spike-driven Transformer V1 with its attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.spatial_temporal_attention import (
    PooledSpatialTemporalAttention,
    SpatialTemporalAttention,
)
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.sdt_v1 import (
    PooledSpikeDrivenAttention,
    SDTV1Config,
    SpikeDrivenAttention,
    SpikeDrivenTransformer,
)

__all__ = ["STAtten", "STAttenConfig"]

_MODES = ("STAtten", "SDT")


@dataclass(frozen=True, kw_only=True)
class STAttenConfig(SDTV1Config):
    """An STAtten before pruning; see `SDTV1Config`.

    Args:
        attention_mode: `STAtten`, or `SDT`: the attention of Spike-driven Transformer V1.
        chunk_size: timesteps that attend to each other; T is a multiple. Not used by `SDT`.
        pooled_attention: attention pools, as upstream's code does for event cameras.
    """

    attention_mode: str
    chunk_size: int

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        if self.attention_mode not in _MODES:
            raise ModelError(
                f"attention mode {self.attention_mode!r}: expected {' or '.join(_MODES)}; pass "
                "--attention-mode"
            )
        if self.has_chunks and self.timesteps % self.chunk_size:
            raise ModelError(
                f"{self.timesteps} timesteps are no multiple of the {self.chunk_size} in which "
                "this model attends; pass another --timesteps or --chunk-size"
            )

    @property
    def has_chunks(self) -> bool:
        """Whether timesteps attend to each other."""
        return self.attention_mode == "STAtten"

    @property
    def attention_scale(self) -> float:
        """Factor on the attention product, by the height of its input as upstream has it."""
        height: int = self.image_size >> self.pooling.count("1")
        return 1.0 / (height * height * self.chunk_size if self.pooled_attention else height)


def _attention(config: STAttenConfig) -> nn.Module:
    if not config.has_chunks:
        if config.pooled_attention:
            return PooledSpikeDrivenAttention(config, pools_q=True)
        return SpikeDrivenAttention(config)
    dim = config.embed_dim

    def unit() -> ConvBNNeuron:
        return ConvBNNeuron(dim, dim, neuron=make_neuron(config))

    kind = PooledSpatialTemporalAttention if config.pooled_attention else SpatialTemporalAttention
    return kind(
        timesteps=config.timesteps,
        chunk_size=config.chunk_size,
        entry=make_neuron(config),
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config, v_threshold=config.attention_v_threshold),
        proj=ConvBN(dim, dim),
        num_heads=config.num_heads,
        scale=config.attention_scale,
    )


class STAtten(SpikeDrivenTransformer):
    """Spike-driven Transformer V1 whose blocks attend over tokens and timesteps."""

    def __init__(self, config: STAttenConfig) -> None:
        super().__init__(config, lambda: _attention(config))
