"""Checkpoints of QKFormer: upstream's four code bases, and SpikingJelly 2.0's `QKFormer`."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import Family, InputDefaults, ModelOptions, State
from primesvt_deploy.families.checkpoint_keys import (
    block_count,
    rename,
    split_parts,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.qkformer import FORMS, QKFormer, QKFormerConfig

__all__ = ["QKFORMER"]

_PUBLISHED_HEADS = {384: 6, 512: 8, 768: 12}
"""Of upstream's three ImageNet models, by width."""
_FIXED_HEADS = {"cifar": 8, "dvs": 16}
"""Upstream's code has these in every stage, whatever its arguments say."""


def _embedding_rules(names: dict[str, str], stage: int) -> list[tuple[str, str]]:
    """Layers of a patch embedding: `names` maps upstream's names to ours."""
    return [
        (rf"patch_embed{stage + 1}\.{theirs}", f"stages.{stage}.embed.{ours}")
        for theirs, ours in names.items()
    ]


def _upstream_rules(form: str) -> list[tuple[str, str]]:
    rules: list[tuple[str, str]] = []
    for stage in range(FORMS[form].stages):
        names = {r"proj_res_(conv|bn)": r"shortcut.\1", r"proj_(conv|bn)": r"convs.0.\1"}
        if stage == 0:
            names[r"proj(\d)_(conv|bn)"] = r"convs.\1.\2"
        else:
            names |= {r"proj3_(conv|bn)": r"convs.0.\1", r"proj4_(conv|bn)": r"convs.1.\1"}
        block = rf"stage{stage + 1}\.(\d+)\."
        ours = rf"stages.{stage}.blocks.\1."
        rules += _embedding_rules(names, stage)
        rules += [
            (rf"{block}(?:tssa|ssa|attn)\.(q|k|v|proj)_(conv|bn)", rf"{ours}attn.\2.\3"),
            (rf"{block}mlp\.(?:fc|mlp)([12])_(conv|bn)", rf"{ours}mlp.fc\2.\3"),
        ]
    return rules


def _spikingjelly_rules() -> list[tuple[str, str]]:
    rules: list[tuple[str, str]] = []
    names = {rf"(conv|bn){i + 1}": rf"convs.{i}.\1" for i in range(3)}
    names |= {r"shortcut\.0": "shortcut.conv", r"shortcut\.1": "shortcut.bn"}
    for stage in range(3):
        block = rf"stage{stage + 1}\.(\d+)\."
        ours = rf"stages.{stage}.blocks.\1."
        rules += _embedding_rules(names, stage)
        rules += [
            (rf"{block}attn\.(qk|qkv|proj)_conv_bn\.0", rf"{ours}attn.\2.conv"),
            (rf"{block}attn\.(qk|qkv|proj)_conv_bn\.1", rf"{ours}attn.\2.bn"),
            (rf"{block}mlp\.fc([12])", rf"{ours}mlp.fc\2.conv"),
            (rf"{block}mlp\.bn([12])", rf"{ours}mlp.fc\2.bn"),
        ]
    return rules


def _is_spikingjelly(keys: Set[str]) -> bool:
    return {"patch_embed1.shortcut.0.weight", "stage1.0.attn.qk_conv_bn.0.weight"} <= keys


def _is_upstream(keys: Set[str]) -> bool:
    return {"patch_embed1.proj_res_conv.weight", "stage1.0.tssa.q_conv.weight"} <= keys


def _recognises(keys: Set[str]) -> bool:
    return "head.weight" in keys and (_is_spikingjelly(keys) or _is_upstream(keys))


def _form(keys: Set[str]) -> str:
    if _is_spikingjelly(keys):
        return "imagenet"
    if not any(key.startswith("patch_embed3.") for key in keys):
        return "dvs"
    return "imagenet" if "patch_embed1.proj2_conv.weight" in keys else "cifar"


def _heads(options: ModelOptions, form: str, embed_dim: int, *, upstream: bool) -> tuple[int, ...]:
    """Heads of each stage: as said, or what upstream's code has for this form and width.

    Raises:
        ModelError: nobody said it, or not for each stage of SpikingJelly's class, where they
            may differ; or the number is not what upstream's code has.
    """
    if options.stage_heads is not None or not upstream:
        chosen: tuple[int, ...] = options.demand("stage_heads")
        return chosen
    told, stages = options.num_heads, FORMS[form].stages
    fixed = _FIXED_HEADS.get(form)
    if fixed is not None and told not in (None, fixed):
        each = ",".join([str(told)] * stages)
        raise ModelError(
            f"{told} heads: upstream's code has {fixed} in every stage, whatever its arguments "
            f"say; pass --heads {fixed}, or --stage-heads {each} if yours differs"
        )
    known = _PUBLISHED_HEADS.get(embed_dim) if fixed is None else fixed
    if told is None:
        told = options.demand("num_heads") if known is None else known
    return (told,) * stages


def _convert(state: State, options: ModelOptions) -> tuple[QKFormerConfig, dict[str, torch.Tensor]]:
    upstream, form = not _is_spikingjelly(state.keys()), _form(state.keys())
    renamed = rename(state, _upstream_rules(form) if upstream else _spikingjelly_rules())
    ours = split_parts(split_parts(square_kernels(renamed), "qk", "qk"), "qkv", "qkv")
    stages = range(FORMS[form].stages)
    in_channels = width_of(ours, "stages.0.embed.convs.0.conv", axis=1)
    embed_dim = width_of(ours, f"stages.{stages[-1]}.embed.convs.1.conv")
    config = QKFormerConfig(
        timesteps=options.demand("timesteps"),
        image_size=options.demand("image_size"),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        frames=options.takes_frames(in_channels),
        tau=2.0 if options.tau is None else options.tau,
        v_threshold=1.0 if options.v_threshold is None else options.v_threshold,
        form=form,
        stage_heads=_heads(options, form, embed_dim, upstream=upstream),
        embed_dim=embed_dim,
        depths=tuple(block_count(ours, rf"stages\.{i}\.blocks\.(\d+)\.") for i in stages),
        # SpikingJelly's constructor hands v_threshold on to every neuron.
        attention_v_threshold=0.5
        if upstream or options.v_threshold is None
        else options.v_threshold,
    )
    return config, ours


QKFORMER = Family(
    name="qkformer",
    title="QKFormer (Zhou et al., NeurIPS 2024)",
    config_type=QKFormerConfig,
    network=QKFormer,
    recognises=_recognises,
    convert=_convert,
    flags="--timesteps --image-size [--heads or --stage-heads]",
    inputs=InputDefaults(resize_at_224=256, crops_above_224=False),
    note=(
        "This artifact computes each sample alone. Published numbers were made with batches whose "
        "samples leak into each other: upstream's issue 14 reports 78.7% at batch size 32 and "
        "74.2% at batch size 1."
    ),
)
