"""Stored training arguments that say another forward pass than the family's are refused by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import vector

from primesvt_deploy import load
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.families.stored_arguments import model_named
from primesvt_deploy.model.svit import SViT

OF_SDT = {"timesteps": 4, "image_size": 32, "pooling": "0011"}
OF_SPIKFORMER = {"timesteps": 4, "num_heads": 2, "image_size": 32, "patch_size": 4}
NAMES = {
    "spikformer": ["spikformer", "Spikformer_8_512", "vitsnn", "CML_Spikformer"],
    "spikingformer": ["Spikingformer", "vitsnn", "SEWResNet", "CNL-Spikingformer"],
    "spikingformer-cml": ["Spikingformer-cml", "CML-Spikingformer", "Spikingformer"],
    "sdt-v1": ["sdt", "SDT_8_512"],
    "statten": ["sdt"],
    "sdt-v2": ["metaspikformer_8_384", "spikformer_6_320_CAFormer_HARDVS"],
    "sdt-v3": ["Efficient_Spiking_Transformer_s", "Efficient_Spiking_Transformer_scaling_8_19M"],
    "sdt-v3-large": ["spikformer12_512", "spikmae_12_768"],
    "qkformer": ["QKFormer", "QKFormer_10_768", "vitsnn", "SEWResNet"],
    "spikingresformer": ["spikingresformer_ti", "spikingresformer_cifar", "spikingresformer_dvsg"],
    "maxformer": ["max_former", "maxformer_10_384", "maxformer"],
    "sglformer": ["sglformer", "sglformer2_2_384_4", "sglformer_ima2_8_384"],
}  # fmt: skip
"""Names that upstream's scripts store for the family's networks."""
FORKS = ["sdt_drop", "ms_qkformer_10_384", "tp_spikformer", "spikformer_tp_8_384", "my_own"]


def stored(
    path: Path, name: str, arguments: dict[str, Any], given: dict[str, Any], **beside: Any
) -> SViT:
    """What `load` makes of a test vector with these arguments stored beside it."""
    content = {"state_dict": vector(name)["state_dict"], "args": argparse.Namespace(**arguments)}
    torch.save({**content, **beside}, path / "fork.pth")
    return load(path / "fork.pth", **given)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_upstreams_names_of_the_model_are_covered_and_a_forks_are_not(family: Any) -> None:
    config: Any = None
    own = next(a for a in family.arguments if "model" in a.names)
    assert [name for name in NAMES[family.name] if not own.covers(name, config)] == []
    assert [name for name in FORKS if own.covers(name, config)] == []


def test_a_name_has_sizes_and_data_sets_behind_it_alone() -> None:
    covers = model_named("sdt").covers
    config: Any = None
    assert covers("sdt-8-512", config) and covers("SDT_cifar100_t4", config)
    assert not covers("sdt_8_512_drop", config) and not covers("statten", config)
    assert covers(None, config), "what is no text names no model"


@pytest.mark.parametrize(
    ("arguments", "beside", "named"),
    [
        ({"model": "sdt_drop"}, {}, "model"),
        ({"model": "sdt"}, {"arch": "sdt_drop"}, "arch"),
        ({"tau": 3.0}, {}, "tau"),
        ({"v_threshold": 0.5}, {}, "v_threshold"),
        ({"spike_mode": "plif"}, {}, "spike_mode"),
        ({"dvs_mode": True}, {}, "dvs_mode"),
        ({"keep_rate": 0.7}, {}, "keep_rate"),
    ],
)
def test_a_contradiction_is_refused_by_name_and_can_be_overridden(
    tmp_path: Path, arguments: dict[str, Any], beside: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=f"its stored argument {named} is") as caught:
        stored(tmp_path, "sdt_v1_0011", arguments, OF_SDT, **beside)
    assert "--family sdt-v1 --ignore-args" in str(caught.value)
    assert "\n" not in str(caught.value)
    given = {**OF_SDT, "family": "sdt-v1", "ignore_args": True}
    assert stored(tmp_path, "sdt_v1_0011", arguments, given, **beside).family.name == "sdt-v1"


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "sdt", "spike_mode": "lif", "tau": 2.0, "v_threshold": 1.0, "dvs_mode": False},
        {"model": None, "spike_mode": "", "tau": None},
        {"neuron": "MultiStepLIFNode", "keep_rate": 1.0, "drop_rate": 0.2, "model": "sdt_8_512"},
        {"neuron": "LIFSpike", "model": "sdt-2-256-400E_best", "arch": "distributeddataparallel"},
    ],
)
def test_what_the_family_covers_is_read(tmp_path: Path, arguments: dict[str, Any]) -> None:
    assert stored(tmp_path, "sdt_v1_0011", arguments, OF_SDT).family.name == "sdt-v1"


@pytest.mark.parametrize("entry", ["args", "config", "cfg", "hparams", "hyper_parameters"])
@pytest.mark.parametrize("nested", [False, True])
def test_arguments_are_found_where_scripts_put_them(
    tmp_path: Path, entry: str, nested: bool
) -> None:
    arguments: Any = {"tau": 3.0, "time_steps": 4, "input_size": [3, 32, 32]}
    content = {"state_dict": vector("sdt_v1_0011")["state_dict"]}
    torch.save({**content, entry: {"model": arguments} if nested else arguments}, tmp_path / "w")
    with pytest.raises(ModelError, match=r"its stored argument tau is 3\.0"):
        load(tmp_path / "w", pooling="0011")
    model = load(tmp_path / "w", pooling="0011", tau=3.0)
    assert (model.timesteps, model.config.image_size) == (4, 32)


def test_a_gesture_file_of_upstreams_script_is_read(tmp_path: Path) -> None:
    """There `dvs_mode` is set for CIFAR10-DVS alone, whose attention pools."""
    arguments = {"model": "sdt", "dvs_mode": False, "time_steps": 3, "img_size": 32}
    model = stored(tmp_path, "sdt_v1_gesture", arguments, {"pooling": "0111"})
    assert model.config.frames


def test_same_keys_that_nothing_tells_apart_are_told_in_a_note(tmp_path: Path) -> None:
    torch.save(vector("statten_imagenet")["state_dict"], tmp_path / "w.pth")
    shared: dict[str, Any] = {"timesteps": 6, "image_size": 48, "pooling": "1111"}
    (note,) = load(tmp_path / "w.pth", **shared).notes
    assert "are those of statten as well" in note
    assert not load(tmp_path / "w.pth", **shared, family="sdt-v1").notes
    chosen = load(tmp_path / "w.pth", **shared, attention_mode="STAtten", chunk_size=3)
    assert chosen.family.name == "statten"


@pytest.mark.parametrize("tail", ["t1" * 40 + "!", "1" * 5000, "1" * 180 + "!"])
def test_a_name_that_is_made_to_be_compared_for_ever_is_refused(tmp_path: Path, tail: str) -> None:
    with pytest.raises(ModelError, match="its stored argument model is"):
        stored(tmp_path, "spikformer_cifar", {"model": f"spikformer{tail}"}, OF_SPIKFORMER)


def test_an_option_settles_what_it_is_about(tmp_path: Path) -> None:
    arguments = {"tau": 3.0}
    with pytest.raises(ModelError, match=r"Pass --tau 3\.0 if its code uses that"):
        stored(tmp_path, "spikformer_cifar", arguments, OF_SPIKFORMER)
    model = stored(tmp_path, "spikformer_cifar", arguments, {**OF_SPIKFORMER, "tau": 3.0})
    assert model.config.tau == 3.0


def test_a_forks_attention_mode_leads_to_its_family(tmp_path: Path) -> None:
    arguments = {"model": "sdt", "attention_mode": "STAtten", "chunk_size": 2}
    assert stored(tmp_path, "sdt_v1_0011", arguments, OF_SDT).family.name == "statten"
    with pytest.raises(ModelError, match="its stored argument attention_mode is 'STAtten'"):
        stored(tmp_path, "sdt_v1_0011", arguments, {**OF_SDT, "family": "sdt-v1"})


def test_the_recorded_accuracy_comes_along_unless_it_is_ignored(tmp_path: Path) -> None:
    given = {**OF_SDT, "family": "sdt-v1"}
    assert stored(tmp_path, "sdt_v1_0011", {}, given, best_acc=0.94).recorded_accuracy == 94.0
    ignored = {**given, "ignore_args": True}
    assert stored(tmp_path, "sdt_v1_0011", {}, ignored, best_acc=0.94).recorded_accuracy is None


def test_arguments_that_say_different_things_are_asked_about(tmp_path: Path) -> None:
    given = {k: v for k, v in OF_SDT.items() if k != "timesteps"}
    with pytest.raises(ModelError, match=r"T \(3\) and time_steps \(4\).*pass --timesteps"):
        stored(tmp_path, "sdt_v1_0011", {"T": 3, "time_steps": 4}, given)
    assert stored(tmp_path, "sdt_v1_0011", {"T": 3, "time_steps": 4}, OF_SDT).timesteps == 4
    sections = {"model": {"T": 4}, "distillation": {"T": 3}}
    for arguments in (sections, {"T": 3, "model": {"T": 4}}):
        assert stored(tmp_path, "sdt_v1_0011", arguments, given).timesteps == 4
    with pytest.raises(ModelError, match="--timesteps"):
        stored(tmp_path, "sdt_v1_0011", {"loss": {"T": 3}}, given)


@pytest.mark.parametrize(
    "arguments",
    [
        {"args": {"lr": 1.0}, "config": {"tau": 1.5}},
        {"args": {}, "hyper_parameters": {"TAU": "1.5"}},
        {"model_config": {"lif_tau": torch.tensor(1.5)}},
        {"args": {"vth": [0.5]}},
        {"args": {"model": {"name": "sdt"}}},
        {"args": {"neuron_model": "spikingjelly.activation_based.neuron.ParametricLIFNode"}},
        {"args": {"neuron": "ParametricLIFNode(init_tau=2.0)"}},
        {"args": {"neuron": {"type": "PLIFNode", "v_reset": 0.0}}},
        {"args": {"attn_mode": "STAtten"}},
    ],
)
def test_contradictions_are_seen_wherever_and_however_they_are_written(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    content = {"state_dict": vector("spikformer_cifar")["state_dict"], **arguments}
    torch.save(content, tmp_path / "fork.pth")
    with pytest.raises(ModelError, match="its stored argument") as caught:
        load(tmp_path / "fork.pth", **OF_SPIKFORMER)
    assert "\n" not in str(caught.value)
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "plain.pth")
    assert load(tmp_path / "plain.pth", **OF_SPIKFORMER).family.name == "spikformer"
