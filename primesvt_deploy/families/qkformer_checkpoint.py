"""Checkpoints of QKFormer: upstream's four code bases, and SpikingJelly 2.0's `QKFormer`."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.checkpoint_keys import (
    State,
    block_count,
    rename,
    split_parts,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.qkformer import FORMS, QKFormer, QKFormerConfig
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["QKFORMER"]

_PUBLISHED_HEADS = {384: 6, 512: 8, 768: 12}
"""Heads of upstream's three ImageNet models, by width."""
_FIXED_HEADS = {"cifar": 8, "dvs": 16}
"""Heads in every stage of upstream's other code, whatever its arguments say."""


def _embedding_rules(names: dict[str, str], stage: int) -> list[tuple[str, str]]:
    """Rules for the layers of a patch embedding, from upstream's names to ours."""
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
    """Heads of each stage: as given, or as upstream's code has them for this form and width.

    Raises:
        ModelError: heads are not given and upstream's code does not fix them, they are not given
            for each stage of SpikingJelly's class, where they may differ, or they are not those
            of upstream's code.
    """
    if options.stage_heads is not None or not upstream:
        chosen: tuple[int, ...] = options.require("stage_heads")
        return chosen
    given, stages = options.num_heads, FORMS[form].stages
    fixed = _FIXED_HEADS.get(form)
    if fixed is not None and given not in (None, fixed):
        each = ",".join([str(given)] * stages)
        raise ModelError(
            f"{given} heads: upstream's code has {fixed} in every stage, whatever its arguments "
            f"say; pass --heads {fixed}, or --stage-heads {each} if yours differs"
        )
    published = _PUBLISHED_HEADS.get(embed_dim) if fixed is None else fixed
    if given is None:
        given = options.require("num_heads") if published is None else published
    return (given,) * stages


def _convert(state: State, options: ModelOptions) -> tuple[QKFormerConfig, dict[str, torch.Tensor]]:
    upstream, form = not _is_spikingjelly(state.keys()), _form(state.keys())
    renamed = rename(state, _upstream_rules(form) if upstream else _spikingjelly_rules())
    ours = split_parts(split_parts(square_kernels(renamed), "qk", "qk"), "qkv", "qkv")
    stages = range(FORMS[form].stages)
    in_channels = width_of(ours, "stages.0.embed.convs.0.conv", axis=1)
    embed_dim = width_of(ours, f"stages.{stages[-1]}.embed.convs.1.conv")
    config = QKFormerConfig(
        **options.network_arguments(in_channels),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        form=form,
        stage_heads=_heads(options, form, embed_dim, upstream=upstream),
        embed_dim=embed_dim,
        depths=tuple(block_count(ours, rf"stages\.{i}\.blocks\.(\d+)\.") for i in stages),
        attention_v_threshold=options.attention_v_threshold(passed_on=not upstream),
    )
    return config, ours


QKFORMER = Family(
    name="qkformer",
    title="QKFormer (Zhou et al., NeurIPS 2024)",
    config_type=QKFormerConfig,
    network=QKFormer,
    recognises=_recognises,
    arguments=(model_named("qkformer"),),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "stage_heads"},
    superseded={"num_heads": "stage_heads"},
    flags="--timesteps --image-size [--heads or --stage-heads]",
    inputs=InputDefaults(resize_at_224=256, crops_above_224=False),
    note=(
        "This artifact computes each sample alone. Published numbers were made with batches whose "
        "samples leak into each other: upstream's issue 14 reports 78.7% at batch size 32 and "
        "74.2% at batch size 1."
    ),
)
