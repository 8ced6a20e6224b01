"""Checkpoint conversion that the pyramids (Spike-driven Transformers V2 and V3) share."""

from __future__ import annotations

from typing import Any

from primesvt_deploy.families.blocks.pyramid import CONV_DEPTHS
from primesvt_deploy.families.checkpoint_keys import State, block_count, width_of
from primesvt_deploy.families.options import ModelOptions

__all__ = ["STAGE_RULES", "integer_arguments", "shape_of"]

STAGE_RULES = (
    (r"downsample1_1\.encode_(conv|bn)", r"stages.0.down.\1"),
    (r"downsample1_2\.encode_(conv|bn)", r"stages.1.down.\1"),
    (r"downsample([234])\.encode_(conv|bn)", r"stages.\1.down.\2"),
    (r"ConvBlock1_1\.0\.(.+)", r"stages.0.blocks.0.\1"),
    (r"ConvBlock1_2\.0\.(.+)", r"stages.1.blocks.0.\1"),
    (r"ConvBlock2_1\.0\.(.+)", r"stages.2.blocks.0.\1"),
    (r"ConvBlock2_2\.0\.(.+)", r"stages.2.blocks.1.\1"),
    (r"block([34])\.(\d+)\.(.+)", r"stages.\1.blocks.\2.\3"),
)
"""Rules for `rename`: upstream's names of stages and blocks, and ours."""


def shape_of(state: State) -> dict[str, Any]:
    """Arguments of `PyramidConfig` that a state_dict determines.

    Args:
        state: under our names.

    Raises:
        ModelError: a layer that every pyramid has is missing.
    """
    stages = max(block_count(state, r"stages\.(\d)\."), len(CONV_DEPTHS) + 1)
    blocks = (block_count(state, rf"stages\.{i}\.blocks\.(\d+)\.") for i in range(stages))
    return {
        "in_channels": width_of(state, "stages.0.down.conv", axis=1),
        "num_classes": width_of(state, "head"),
        "widths": tuple(width_of(state, f"stages.{i}.down.conv") for i in range(stages)),
        "depths": (*CONV_DEPTHS, *tuple(blocks)[len(CONV_DEPTHS) :]),
        "distilled": "head_kd.weight" in state,
    }


def integer_arguments(state: State, options: ModelOptions) -> dict[str, Any]:
    """Arguments that the configurations of all integer pyramids share.

    Args:
        state: under our names.
        options: options that the weights do not determine.

    Raises:
        ModelError: a layer or an option is missing.
    """
    return {
        "timesteps": 1 if options.timesteps is None else options.timesteps,
        "num_heads": options.require("num_heads"),
        "image_size": options.require("image_size"),
        "frames": bool(options.frames),
        **options.neuron_arguments(),
        **shape_of(state),
    }
