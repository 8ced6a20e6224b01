"""Loading: what is given is the model that was trained, or is refused in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import LABELS, enliven, make_model, write_model_directory
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as Upstream

from primesvt_deploy.errors import DeployError, ModelError
from primesvt_deploy.model.description import describe
from primesvt_deploy.model.load import load
from primesvt_deploy.model.reference_models import DEFAULT_MODEL, model_names
from primesvt_deploy.model.svit import SViT

OPTIONS: dict[str, Any] = {"timesteps": 2, "num_heads": 2, "image_size": 16, "patch_size": 4}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny() -> SViT:
    """One for all tests here, none of which changes it."""
    return make_model()


def upstream_model() -> Any:
    model = Upstream(
        T=2,
        img_size_h=16,
        img_size_w=16,
        patch_size=4,
        num_classes=5,
        embed_dims=16,
        num_heads=2,
        depths=1,
    )
    return enliven(model, seed=4)


def upstream_state() -> State:
    return {key: tensor.clone() for key, tensor in upstream_model().state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "spikformer.best.pth"
    torch.save({"state_dict": upstream_state(), "epoch": 1}, path)
    return path


def saved(directory: Path, state: State) -> Path:
    path = directory / "w.safetensors"
    save_file(state, path)
    return path


def refused(source: object, **options: Any) -> str:
    """The one line with which `load` refuses."""
    with pytest.raises(DeployError) as caught:
        load(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def random_images(model: SViT, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, *model.config.input_shape, generator=generator)


def test_reference_model_by_name() -> None:
    assert DEFAULT_MODEL in model_names()
    model = load(DEFAULT_MODEL)
    assert model.name == DEFAULT_MODEL
    assert model.timesteps == 4
    assert model.data == "cifar10"
    assert model.labels[0] == "airplane"
    assert len(model.labels) == model.config.num_classes == 10
    assert not model.module.training
    assert load().digest == model.digest


def test_notes_are_kept_by_what_is_made_of_a_model(tiny: SViT) -> None:
    noted = replace(tiny, notes=("read with care",))
    assert noted.all_notes == ("read with care",)
    assert noted.at_timesteps(1).with_module(tiny.module).notes == noted.notes
    warned = replace(noted, family=replace(tiny.family, note="of the family"))
    assert warned.all_notes == ("of the family", "read with care")


def test_unknown_name_lists_the_reference_models() -> None:
    message = refused("spikfromer")
    assert "no model 'spikfromer'" in message
    assert DEFAULT_MODEL in message


def test_missing_path_is_no_reference_model(tmp_path: Path) -> None:
    assert "no model" in refused(tmp_path / DEFAULT_MODEL)


def test_directory_gives_the_model_that_was_written(tiny: SViT, tiny_directory: Path) -> None:
    model = load(tiny_directory)
    assert model.config == tiny.config
    assert model.labels == tiny.labels
    assert model.preprocessing == tiny.preprocessing
    assert model.digest == tiny.digest
    batch = random_images(tiny)
    assert torch.equal(model.logits(batch), tiny.logits(batch))


def test_description_rebuilds_the_model(tiny: SViT, tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path / "written", tiny)
    assert describe(load(directory)) == describe(tiny)


def test_directory_may_hold_weights_under_upstream_keys(tmp_path: Path, checkpoint: Path) -> None:
    model = load(checkpoint, **OPTIONS)
    directory = write_model_directory(tmp_path / "d", model)
    save_file(upstream_state(), directory / "weights.safetensors")
    assert load(directory).digest == model.digest


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_checkpoint_gives_upstreams_logits(tmp_path: Path, suffix: str) -> None:
    theirs = upstream_model()
    path = tmp_path / f"w.{suffix}"
    (torch.save if suffix == "pth" else save_file)(theirs.state_dict(), path)
    model = load(path, **OPTIONS)
    batch = random_images(model).double()
    functional.reset_net(theirs)
    with torch.no_grad():
        expected = theirs.double()(batch).mean(dim=0)
        found = model.module.double()(batch)
    assert expected.std(dim=0).min() > 1e-3, "the logits do not depend on the image"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


def test_checkpoint_gets_names_and_cifar_statistics_by_default(checkpoint: Path) -> None:
    model = load(checkpoint, **OPTIONS)
    assert model.name == "spikformer"
    assert model.labels == ("0", "1", "2", "3", "4")
    assert model.preprocessing.height == model.preprocessing.width == 16
    assert model.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    assert model.data is None
    assert {tensor.dtype for tensor in model.module.parameters()} == {torch.float32}


def test_large_images_get_imagenet_statistics(checkpoint: Path) -> None:
    model = load(checkpoint, **{**OPTIONS, "image_size": 96})
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)


def test_given_labels_and_statistics_are_used(checkpoint: Path) -> None:
    model = load(
        checkpoint, **OPTIONS, labels=LABELS, mean=np.array([0.1, 0.2, 0.3]), std=[0.5, 0.5, 0.6]
    )
    assert model.labels == LABELS
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.std == (0.5, 0.5, 0.6)


@pytest.mark.parametrize(("option", "value"), [("tau", 1.3), ("v_threshold", 0.7)])
def test_neuron_options_reach_the_neurons(checkpoint: Path, option: str, value: float) -> None:
    model = load(checkpoint, **OPTIONS, **{option: value})
    assert getattr(model.config, option) == value
    batch = random_images(model)
    assert not torch.equal(model.logits(batch), load(checkpoint, **OPTIONS).logits(batch))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in upstream_state().items()}
    model = load(saved(tmp_path, state), **OPTIONS)
    assert {tensor.dtype for tensor in model.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("timesteps", "--timesteps"),
        ("num_heads", "--heads"),
        ("image_size", "--image-size"),
        ("patch_size", "--patch-size"),
    ],
)
def test_missing_option_is_asked_for_by_its_flag(checkpoint: Path, option: str, flag: str) -> None:
    options = {key: value for key, value in OPTIONS.items() if key != option}
    message = refused(checkpoint, **options)
    assert "cannot be read from the weights" in message
    assert message.endswith(f"pass {flag}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": 0}, "timesteps is 0"),
        ({"num_heads": 3}, "3 heads do not divide the attention width 16; .*--heads"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"image_size": 18}, "18 is not a multiple of 4, .*--image-size"),
        ({"image_size": -16}, "image_size is -16"),
        ({"pooling": "0021"}, "pooling is '0021': expected four digits"),
        ({"resize": 8}, "resize: found 8, expected at least height and width"),
        ({"interpolation": "magic"}, "interpolation: found 'magic'"),
        ({"ema": True}, "holds no averaged weights .*: drop --ema"),
        ({"patch_size": 5}, "patch size 5: .*4 or 16; pass --patch-size"),
        ({"tau": 0.5}, "tau is 0.5: .*--tau"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"v_threshold": 0.0}, "v_threshold 0.0 is not above v_reset 0.0"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"std": (0.0, 0.5, 0.5)}, "std"),
        ({"mean": ()}, "mean"),
        ({"labels": LABELS[:4]}, "4 labels for a model of 5 classes"),
        ({"labels": [*LABELS, "fox"]}, "6 labels for a model of 5 classes"),
        ({"family": "resnet"}, "unknown family 'resnet'.*--family"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    checkpoint: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeployError, match=said):
        load(checkpoint, **{**OPTIONS, **changes})
    refused(checkpoint, **{**OPTIONS, **changes})


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"levels": 4}, "--levels"),
        ({"stage_heads": (2, 2)}, "--stage-heads"),
        ({"pooling": "0011"}, "--patch-size"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    checkpoint: Path, options: dict[str, Any], flag: str
) -> None:
    said = refused(checkpoint, **OPTIONS, **options)
    assert f"{flag} is given by the weights, or means nothing for a spikformer: drop it" in said


def test_what_the_user_says_stands_for_more_than_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    arguments = argparse.Namespace(T=2, num_heads=2, img_size=16, pooling_stat="1111")
    torch.save({"state_dict": upstream_state(), "args": arguments}, path)
    assert load(path, patch_size=4).config.pooling == "0011"  # type: ignore[attr-defined]
    assert load(path).config.pooling == "1111"  # type: ignore[attr-defined]
    assert load(path, timesteps=5, patch_size=4).timesteps == 5


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"load\(\) has no option 'heads': expected"):
        load("pyproject.toml", heads=8)


def test_keys_of_another_family(tmp_path: Path) -> None:
    path = saved(tmp_path, dict(torch.nn.Linear(3, 2).state_dict()))
    message = refused(path, **OPTIONS)
    assert "its keys (bias, weight, ...) are those of no known family (spikformer" in message
    message = refused(path, **OPTIONS, family="spikformer")
    assert "is not a spikformer: its 2 keys (bias, weight, ...)" in message
    assert "of spikformer, 25 of its 25 layers are missing (patch_embed.proj_conv, " in message


def test_keys_of_no_family_lead_to_the_nearest_or_to_a_factory(tmp_path: Path) -> None:
    state = upstream_state()
    lacking = {key: tensor for key, tensor in state.items() if "positional" not in key}
    message = refused(saved(tmp_path, lacking), **OPTIONS)
    assert "no known family; nearest is spikformer: 1 of its " in message
    assert "layers are missing (patch_embed.positional_encoding.conv_bn.block.N)" in message
    assert message.endswith("for a class of your own pass --factory MODULE:FUNCTION")


def test_a_file_without_its_classifier_is_told_from_a_strange_one(tmp_path: Path) -> None:
    state = upstream_state()
    del state["head.weight"]
    path = saved(tmp_path, state)
    missing = "and head.weight is missing: expected a classifier's whole checkpoint"
    assert f"they look like spikformer, {missing}" in refused(path, **OPTIONS)
    assert missing in refused(path, **OPTIONS, family="spikformer")


def test_family_named_in_the_file_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(upstream_state(), path, metadata={"family": "resnet"})
    assert "unknown family 'resnet'" in refused(path, **OPTIONS)
    assert load(path, **OPTIONS, family="spikformer").family.name == "spikformer"


def drop(*keys: str) -> Callable[[State], None]:
    return lambda state: [state.pop(key) for key in keys].clear()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("head.bias"), "1 keys missing (head.bias); 0 keys unexpected"),
        (
            lambda state: state.update({"head2.weight": torch.zeros(5, 16)}),
            "0 keys missing; 1 keys unexpected (head2.weight)",
        ),
        (
            lambda state: state.update(
                {"extra.a": torch.zeros(1), "extra.b": state.pop("head.bias")}
            ),
            "1 keys missing (head.bias); 2 keys unexpected (extra.a, extra.b)",
        ),
        (
            drop("blocks.0.attn.qkv_conv_bn.0.weight"),
            "3 keys missing (blocks.0.attn.k.conv.weight, ",
        ),
        (drop("blocks.0.mlp.fc1.0.weight"), "1 keys missing (blocks.0.mlp.fc1.conv.weight)"),
        (
            drop("patch_embed.stages.3.conv_bn.block.0.weight"),
            "has no 'stem.3.conv.weight', which every model of this family has",
        ),
    ],
)
def test_missing_and_unexpected_keys_are_counted_and_named(
    tmp_path: Path, change: Callable[[State], None], said: str
) -> None:
    state = upstream_state()
    change(state)
    assert said in refused(saved(tmp_path, state), **OPTIONS)


def test_long_lists_of_keys_are_cut_short(tmp_path: Path) -> None:
    state = upstream_state() | {f"x{i:03}": torch.zeros(1) for i in range(500)}
    message = refused(saved(tmp_path, state), **OPTIONS)
    assert "500 keys unexpected (x000" in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("head.bias", (6,), r"head.bias is \[6\], expected \[5\]"),
        (
            "patch_embed.stages.1.conv_bn.block.0.weight",
            (4, 2, 1, 1),
            r"expected \[channels, channels, 3, 3\]",
        ),
        (
            "blocks.0.attn.qkv_conv_bn.0.weight",
            (47, 16, 1),
            "47 channels: expected 3 equal parts q, k, v",
        ),
        ("blocks.0.attn.qkv_conv_bn.1.weight", (4,), "4 channels: expected 3 equal parts"),
        ("blocks.0.attn.qkv_conv_bn.1.running_var", (45,), r"is \[15\], expected \[16\]"),
        ("patch_embed.stages.0.conv_bn.block.0.weight", (2,), "expected 2 axes at least"),
        ("blocks.0.mlp.fc1.0.weight", (60, 16, 1), "mlp.fc1.bn takes 64 channels, but 60 arrive"),
        ("blocks.0.mlp.fc2.0.weight", (16, 60, 1), "mlp.fc2.conv takes 60 channels, but 64 arrive"),
        ("head.weight", (), "expected 1 axes at least"),
    ],
)
def test_tensors_of_other_shapes(
    tmp_path: Path, key: str, shape: tuple[int, ...], said: str
) -> None:
    state = upstream_state()
    assert key in state
    state[key] = torch.ones(shape)
    path = saved(tmp_path, state)
    with pytest.raises(ModelError, match=said):
        load(path, **OPTIONS)
    refused(path, **OPTIONS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    state = upstream_state()
    state["head.weight"] = state["head.weight"].double()
    state["head.weight"][2, 3] = value
    message = refused(saved(tmp_path, state), **OPTIONS)
    assert "head.weight holds NaN or infinity: use another checkpoint" in message


def with_channels(channels: int) -> State:
    state = upstream_state()
    first = "patch_embed.stages.0.conv_bn.block.0.weight"
    state[first] = torch.cat([state[first]] * 2, dim=1)[:, :channels].clone()
    return state


def test_grey_models_take_one_channel(tmp_path: Path) -> None:
    path = saved(tmp_path, with_channels(1))
    model = load(path, **OPTIONS)
    assert model.preprocessing.mean == model.preprocessing.std == (0.5,)  # type: ignore[union-attr]
    assert "pass --mean and --std of the training" in model.notes[0]
    given = load(path, **OPTIONS, mean=(0.1307,), std=(0.3081,))
    assert (given.preprocessing.mean, given.notes) == ((0.1307,), ())  # type: ignore[union-attr]
    assert "--mean has 3 numbers: expected 1" in refused(path, **OPTIONS, mean=(0.1, 0.2, 0.3))
    directory = write_model_directory(tmp_path / "d", given)
    assert load(directory).digest == given.digest
    description = (directory / "model.toml").read_text()
    (directory / "model.toml").write_text(description.replace("0.1307", "0.1, 0.1, 0.1"))
    assert "mean" in refused(directory)


def test_images_of_four_channels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, with_channels(4))
    assert "takes 4 channels: expected 3 (RGB images) or 1" in refused(path, **OPTIONS)
    assert load(path, **OPTIONS, frames=True).config.frames


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"family": "spikformer"}, "--family"),
        ({"timesteps": 3}, "--timesteps"),
        ({"num_heads": 2}, "--heads"),
        ({"image_size": 16}, "--image-size"),
        ({"patch_size": 4}, "--patch-size"),
        ({"tau": 2.0}, "--tau"),
        ({"v_threshold": 1.0}, "--v-threshold"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean"),
        ({"std": (0.5, 0.5, 0.5)}, "--std"),
        ({"labels": LABELS}, "--labels"),
    ],
)
def test_options_are_refused_where_the_model_says_itself_what_it_is(
    tiny_directory: Path, options: dict[str, Any], flag: str
) -> None:
    assert refused(tiny_directory, **options).endswith(
        f"comes with its own description: drop {flag}"
    )
    assert refused(DEFAULT_MODEL, **options).endswith(f"drop {flag}")


def test_directory_without_a_model(tmp_path: Path) -> None:
    assert "has neither model.toml nor manifest.json" in refused(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "tiny"\n', "", "has no 'name'"),
        ('family = "spikformer"\n', "", "has no 'family'"),
        ('"spikformer"', '"resnet"', "unknown family 'resnet'"),
        ("[arguments]", "[argument]", "has no 'arguments'"),
        ("[arguments]", "arguments = 3\n[other]", "arguments is 3, expected a table"),
        ("[preprocessing]", "[preprocess]", "has no 'preprocessing'"),
        ("timesteps = 3\n", "", "spikformer: incomplete configuration: .*'timesteps'"),
        ("timesteps = 3\n", "timesteps = 3\nsteps = 4\n", "unknown argument 'steps'"),
        ("timesteps = 3\n", 'timesteps = "3"\n', "timesteps is '3': expected a whole number"),
        ("num_heads = 2", "num_heads = 5", "5 heads do not divide"),
        ("image_size = 16", "image_size = 17", "17 is not a multiple"),
        ("image_size = 16", "image_size = 32", r"images of \[16, 16\] pixels, .*\[32, 32\]"),
        ("\nheight = 16", "\nheight = 8", r"images of \[8, 16\] pixels, .*\[16, 16\]"),
        ('"bilinear"', '"magic"', "interpolation"),
        ("depth = 2", "depth = 3", "keys missing \\(blocks.2.attn"),
        ('"0011"', "3", "pooling is 3: expected a string"),
        (', "elk"]', "]", "4 labels for a model of 5 classes: give one a class"),
        ('["ant", "bee", "cat", "dog", "elk"]', "5", "labels is 5, expected a list"),
        ('["ant", "bee", "cat", "dog", "elk"]', '"abcde"', "labels is 'abcde', expected a list"),
        ('["ant", "bee", "cat", "dog", "elk"]', "[0, 1, 2, 3, 4]", "labels is .*expected a list"),
        ('weights = "weights.safetensors"', "", "no file of weights"),
        ('"weights.safetensors"', '"lost.safetensors"', "no file of weights at .*lost"),
    ],
)
def test_damaged_model_description(tiny_directory: Path, old: str, new: str, said: str) -> None:
    file = tiny_directory / "model.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DeployError, match=said):
        load(tiny_directory)
    assert "--checkpoint" not in refused(tiny_directory), "the user passed none"


@pytest.mark.parametrize("content", [b"name = \n", b"\xff\xfe\x00binary", b'name = "ti'])
def test_model_description_that_is_no_toml(tiny_directory: Path, content: bytes) -> None:
    (tiny_directory / "model.toml").write_bytes(content)
    assert "model.toml is not valid TOML" in refused(tiny_directory)


def test_model_description_truncated_at_any_length(tiny_directory: Path) -> None:
    file = tiny_directory / "model.toml"
    content = file.read_bytes().rstrip()
    for length in range(0, len(content), 13):
        file.write_bytes(content[:length])
        refused(tiny_directory)


def test_model_description_in_other_scripts(tiny_directory: Path) -> None:
    file = tiny_directory / "model.toml"
    file.write_text(file.read_text().replace('"bee"', '"пчела"'), encoding="utf-8")
    assert load(tiny_directory).labels[1] == "пчела"


def test_truncated_weights_of_a_directory(tiny_directory: Path) -> None:
    weights = tiny_directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not a whole safetensors file" in refused(tiny_directory)


def test_digest_names_weights_and_configuration() -> None:
    model = make_model()
    digests = {model.digest, make_model(seed=1).digest}
    digests.add(replace(model, config=replace(model.config, tau=3.0)).digest)
    assert len(digests) == 3
    with torch.no_grad():
        model.module.get_parameter("head.weight")[0, 0] += 1e-3
    assert model.digest not in digests
