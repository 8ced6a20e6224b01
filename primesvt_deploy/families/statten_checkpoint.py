"""Checkpoints of STAtten's code, a fork of Spike-driven Transformer V1's with the same keys.

What sets them apart are the arguments of its training script, or the user's `--family`. That
script never hands its argument `attention_mode` on: whatever it says, `STAtten` is trained. A
stored `STAtten` is therefore taken, and any other mode is for the user to name.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch

from primesvt_deploy.families.checkpoint_keys import State
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.sdt_v1_checkpoint import SDT_V1, is_upstream
from primesvt_deploy.families.statten import STAtten, STAttenConfig
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["STATTEN"]


def _recognises(keys: Set[str]) -> bool:
    return "head.weight" in keys and is_upstream(keys)


def _claims(arguments: Mapping[str, Any]) -> bool:
    return "attention_mode" in arguments or "chunk_size" in arguments


def _stored_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: arguments[name]
        for name, fits in (
            ("attention_mode", arguments.get("attention_mode") == "STAtten"),
            ("chunk_size", type(arguments.get("chunk_size")) is int),
        )
        if fits
    }


def _convert(state: State, options: ModelOptions) -> tuple[STAttenConfig, dict[str, torch.Tensor]]:
    shared, ours = SDT_V1.convert(state, options)
    mode = options.require("attention_mode")
    config = STAttenConfig(
        **{
            **vars(shared),
            # Upstream's event-camera data sets are those for which its attention pools.
            "pooled_attention": shared.frames,
            "attention_mode": mode,
            "chunk_size": options.require("chunk_size") if mode == "STAtten" else 1,
        }
    )
    return config, ours


STATTEN = Family(
    name="statten",
    title="STAtten (Lee et al., CVPR 2025)",
    config_type=STAttenConfig,
    network=STAtten,
    recognises=_recognises,
    claims=_claims,
    claimed_only=True,
    arguments=(model_named("sdt", "statten"),),
    stored_options=_stored_options,
    convert=_convert,
    options=NEURON_AND_INPUT
    | {"num_heads", "pooling", "patch_size", "attention_mode", "chunk_size"},
    flags="--timesteps --image-size --pooling --attention-mode --chunk-size",
    inputs=InputDefaults(resize_at_224=235),
)
