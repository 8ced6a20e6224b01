"""STAtten: what upstream's code computes, and where other numbers of timesteps mean nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, family_of, singly, vector
from families.zoo import ZOO, model_of
from small_models import enliven, make_model

from primesvt_deploy import load
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.sdt_v1 import SDTV1Config
from primesvt_deploy.families.sdt_v1_checkpoint import SDT_V1
from primesvt_deploy.families.statten import STAttenConfig
from primesvt_deploy.families.statten_checkpoint import STATTEN
from primesvt_deploy.lowering.native.records import AttentionOp, MatMulOp
from primesvt_deploy.lowering.passes import lower_to_program
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

VECTORS = {
    "statten_imagenet": ModelOptions(
        timesteps=6, image_size=48, pooling="1111", attention_mode="STAtten", chunk_size=3
    ),
    "statten_dvs": ModelOptions(
        timesteps=4, num_heads=3, image_size=16, patch_size=4, attention_mode="STAtten",
        chunk_size=2,
    ),
    "statten_sdt_dvs": ModelOptions(
        timesteps=3, image_size=16, pooling="0011", attention_mode="SDT"
    ),
}  # fmt: skip
SMALL = STAttenConfig(
    timesteps=4,
    image_size=16,
    in_channels=3,
    num_classes=5,
    num_heads=2,
    embed_dim=16,
    depth=2,
    pooling="0011",
    attention_mode="STAtten",
    chunk_size=2,
)
every_vector = pytest.mark.parametrize("name", VECTORS)


def expected_of(recorded: dict[str, Any]) -> torch.Tensor:
    """Upstream's logits `[n, K]`; trained with TET, its models give one set a timestep."""
    logits: torch.Tensor = recorded["y_single64"]
    return logits.reshape(len(logits), -1, recorded["num_classes"]).mean(dim=1)


def checkpoint(folder: Path, name: str, **changes: Any) -> Path:
    """A file as upstream's script writes it; arguments that are changed to None are left out."""
    recorded = vector(name)
    arguments = {k: v for k, v in {**recorded["args"], **changes}.items() if v is not None}
    path = folder / "model_best.pth.tar"
    content = {"state_dict": recorded["state_dict"], "args": argparse.Namespace(**arguments)}
    torch.save(content, path)
    return path


@every_vector
def test_converted_network_equals_upstreams_code(name: str) -> None:
    recorded = vector(name)
    _, config, network = converted(recorded["state_dict"], VECTORS[name], STATTEN)
    assert isinstance(config, STAttenConfig)
    assert config.num_heads == len(recorded["state_dict"]["block.0.attn.talking_heads.weight"])
    assert config.frames == config.pooled_attention == name.endswith("dvs")
    expected = expected_of(recorded)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    x = recorded["x"].double()
    assert_live(network, x.transpose(0, 1) if config.frames else x)


def test_without_chunks_images_see_spike_driven_attention() -> None:
    recorded = vector("sdt_v1_0011")
    options = ModelOptions(timesteps=4, image_size=32, patch_size=4, attention_mode="SDT")
    _, _, network = converted(recorded["state_dict"], options, STATTEN)
    expected = expected_of(recorded)
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [{"chunk_size": 1}, {"chunk_size": 2}, {"chunk_size": 6}, {"attention_mode": "SDT"}],
    ids=str,
)
def test_another_attention_gives_other_logits(changes: dict[str, Any]) -> None:
    recorded = vector("statten_imagenet")
    options = replace(VECTORS["statten_imagenet"], **changes)
    _, _, network = converted(recorded["state_dict"], options, STATTEN)
    assert (singly(network, recorded["x"]) - expected_of(recorded)).abs().max() > 1e-3


def test_stored_arguments_tell_it_from_spike_driven_transformer() -> None:
    recorded = vector("statten_imagenet")
    keys = recorded["state_dict"].keys()
    assert STATTEN.recognises(keys) and SDT_V1.recognises(keys)
    assert recognise(keys) is SDT_V1
    assert recognise(keys, {"model": "sdt", "pooling_stat": "1111"}) is SDT_V1
    assert recognise(keys, recorded["args"]) is STATTEN
    assert family_of("statten_dvs") is STATTEN
    assert recognise(vector("spikformer_imagenet")["state_dict"].keys(), recorded["args"]) not in (
        STATTEN,
        SDT_V1,
    )


@pytest.mark.parametrize("name", ["statten_imagenet", "statten_dvs"])
def test_a_training_scripts_container_tells_everything(name: str, tmp_path: Path) -> None:
    model = load(checkpoint(tmp_path, name))
    assert model.family is STATTEN
    recorded = vector(name)
    config, _ = STATTEN.convert(recorded["state_dict"], VECTORS[name])
    assert model.config == config
    found = singly(model.module, recorded["x"])
    torch.testing.assert_close(found, expected_of(recorded), rtol=0.0, atol=1e-9)


def test_a_file_without_arguments_is_it_by_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(vector("statten_imagenet")["state_dict"], path)
    shared: dict[str, Any] = {"timesteps": 6, "image_size": 48, "pooling": "1111"}
    assert load(path, **shared).family is SDT_V1
    given = {**shared, "family": "statten", "attention_mode": "STAtten"}
    with pytest.raises(ModelError, match=r"timesteps that attend to each other .* --chunk-size"):
        load(path, **given)
    with pytest.raises(ModelError, match=r"attention mode cannot be .*: pass --attention-mode"):
        load(path, **shared, family="statten", chunk_size=3)
    assert load(path, **given, chunk_size=3).config.to_dict()["chunk_size"] == 3


def test_a_stored_mode_that_upstreams_script_ignores_is_for_the_user_to_name(
    tmp_path: Path,
) -> None:
    """`train.py` builds its model without `attention_mode`: STAtten, whatever was asked for."""
    path = checkpoint(tmp_path, "statten_imagenet", attention_mode="SDT")
    with pytest.raises(ModelError, match=r"pass --attention-mode STAtten .* or SDT") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert load(path, attention_mode="STAtten").config.to_dict()["chunk_size"] == 3
    assert load(path, attention_mode="SDT").config.to_dict()["attention_mode"] == "SDT"


def test_what_the_user_says_stands_for_more_than_what_the_file_says(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "statten_imagenet")
    assert load(path, chunk_size=2).config.to_dict()["chunk_size"] == 2
    with pytest.raises(ModelError, match="its stored argument attention_mode is 'STAtten'"):
        load(path, family="sdt-v1")
    named = load(path, family="sdt-v1", ignore_args=True)
    assert named.family is SDT_V1 and type(named.config) is SDTV1Config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chunk_size": 4}, "6 timesteps are no multiple of the 4 .*--timesteps or --chunk-size"),
        ({"timesteps": 4}, "4 timesteps are no multiple of the 3"),
        ({"chunk_size": 0}, "chunk_size is 0: expected a whole number"),
        ({"attention_mode": "T_STAtten"}, "'T_STAtten': expected STAtten or SDT; pass --attention"),
        ({"num_heads": 2}, "2 heads, but the weights are of a model with 3"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    state = vector("statten_imagenet")["state_dict"]
    with pytest.raises(ModelError, match=said) as caught:
        STATTEN.convert(state, replace(VECTORS["statten_imagenet"], **changes))
    assert "\n" not in str(caught.value)


def test_parametric_neurons_are_named() -> None:
    state = vector("statten_imagenet")["state_dict"]
    state["block.0.mlp.fc1_lif.w"] = torch.zeros(())
    with pytest.raises(ModelError, match=r"1 keys unexpected \(block.0.mlp.fc1_lif.w\)"):
        converted(state, VECTORS["statten_imagenet"], STATTEN)


def test_timesteps_are_whole_chunks() -> None:
    """A chunk sees none after it, and so fewer chunks are the first of more; half of one is not."""
    model = make_model(SMALL, family=STATTEN)
    for timesteps in (1, 3):
        with pytest.raises(ModelError, match=f"{timesteps} timesteps are no multiple of the 2"):
            model.at_timesteps(timesteps)
    fewer = model.at_timesteps(2)
    images = torch.randn(3, *SMALL.input_shape, generator=torch.Generator().manual_seed(5))

    def first_two_steps() -> torch.Tensor:
        stream = images
        for segment in model.module.segments()[:-1]:
            stream = segment.run(stream)
        head = fewer.module.segments()[-1]
        return head.run(stream.unflatten(0, (4, -1))[:2].flatten(0, 1))

    with torch.no_grad():
        torch.testing.assert_close(fewer.logits(images), first_two_steps(), rtol=0.0, atol=1e-6)
        assert (fewer.logits(images) - model.logits(images)).abs().max() > 1e-3
    alone = make_model(replace(SMALL, attention_mode="SDT"), family=STATTEN)
    assert alone.at_timesteps(1).timesteps == 1


def test_timesteps_of_a_chunk_see_each_other_and_no_others() -> None:
    """The first step's spikes depend on the second's input, and not on the third's."""
    network = enliven(STATTEN.build(SMALL)).double()
    attention = network.get_submodule("blocks.0.attn")
    generator = torch.Generator().manual_seed(3)
    q, k, v = ((torch.rand(4, 16, 4, 4, generator=generator) < 0.4).double() for _ in range(3))

    def first_product(changed: int | None) -> torch.Tensor:
        other = k.clone()
        if changed is not None:
            other[changed] = 1.0 - other[changed]
        product = attention.product(*(x.flatten(2).unflatten(1, (2, -1)) for x in (q, other, v)))  # type: ignore[operator]
        return product[0]  # type: ignore[no-any-return]

    assert not torch.equal(first_product(1), first_product(None))
    assert torch.equal(first_product(2), first_product(None))
    assert torch.equal(first_product(3), first_product(None))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("statten")])
def test_the_native_engine_runs_it_as_one_operator(name: str) -> None:
    quantized = quantize(model_of(name), 8, None)
    program = lower_to_program(quantized.module.float(), quantized.config, precision=Precision.INT8)
    found = [op for op in program.operators if isinstance(op, AttentionOp)]
    assert [op.chunk for op in found] == [quantized.config.to_dict()["chunk_size"]]
    assert not [op for op in program.operators if isinstance(op, MatMulOp)]


def test_groups() -> None:
    network = STATTEN.build(SMALL)
    groups = {group.name: group for group in find_groups(network, SMALL.input_shape)}
    inner = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qk", "attn.v", "mlp")]
    assert groups.keys() == {"residual", "stem.0", "stem.1", "stem.2", *inner}
    assert groups["blocks.0.attn.qk"].heads == groups["blocks.0.attn.v"].heads == 2
    assert groups["residual"].heads == 1


def test_pooled_attention_ties_v_to_the_stream() -> None:
    config = replace(SMALL, pooled_attention=True, frames=True)
    groups = {g.name: g for g in find_groups(STATTEN.build(config), config.input_shape)}
    assert "blocks.0.attn.v" not in groups
    stream = groups["residual"]
    assert stream.heads == 2
    assert {"blocks.0.attn.v.conv", "blocks.1.attn.v.conv"} <= set(stream.outputs)
    assert "blocks.0.attn.proj.conv" in stream.inputs
    assert groups["blocks.1.attn.qk"].outputs == ("blocks.1.attn.k.conv", "blocks.1.attn.q.conv")
