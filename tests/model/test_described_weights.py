"""Files of weights that need no flags, as their model is described."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_models import make_model, write_model_directory

from primesvt_deploy.errors import DeployError
from primesvt_deploy.model import described_weights
from primesvt_deploy.model.described_weights import described_in
from primesvt_deploy.model.load import load
from primesvt_deploy.model.reference_models import DEFAULT_MODEL, model_names, models_root
from primesvt_deploy.model.svit import SViT


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DeployError) as caught:
        load(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", model_names())
def test_a_reference_model_is_loaded_from_its_weights(name: str, tmp_path: Path) -> None:
    weights = models_root() / name / "weights.safetensors"
    copy = Path(shutil.copyfile(weights, tmp_path / "mine.safetensors"))
    by_name = load(name)
    for path in (weights, copy):
        found = load(path)
        assert found.digest == by_name.digest
        assert (found.name, found.labels, found.data) == (name, by_name.labels, "cifar10")
        assert found.source is not None and found.source.file == path.name


def test_a_copy_with_another_byte_is_no_reference_model(tmp_path: Path) -> None:
    content = bytearray((models_root() / DEFAULT_MODEL / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    assert described_in(tmp_path / "w.safetensors") is None


def test_the_weights_of_a_model_directory_need_no_flags(
    tiny: SViT, tiny_directory: Path, tmp_path: Path
) -> None:
    weights = tiny_directory / "weights.safetensors"
    assert load(weights).digest == tiny.digest
    other = Path(shutil.copyfile(weights, tiny_directory / "other.safetensors"))
    assert described_in(other) is None
    assert "no known family" in refused(other)


def test_options_may_repeat_the_description_but_not_contradict_it(
    tiny: SViT, tiny_directory: Path
) -> None:
    weights = tiny_directory / "weights.safetensors"
    same = {"timesteps": 3, "num_heads": 2, "image_size": 16, "mean": list(tiny.preprocessing.mean)}
    assert load(weights, family="spikformer", **same).digest == tiny.digest
    named = load(weights, labels=["a", "b", "c", "d", "e"], ignore_args=True)
    assert named.labels == ("a", "b", "c", "d", "e")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert load(weights, sha256=digest).source.sha256 == digest
    for option, value, said in (
        ("timesteps", 4, "in which --timesteps is 3, not 4: drop --timesteps"),
        ("num_heads", 4, "in which --heads is 2, not 4: drop --heads"),
        ("family", "sdt-v1", "in which --family is spikformer, not sdt-v1: drop --family"),
        ("std", (1.0, 1.0, 1.0), "not (1.0, 1.0, 1.0): drop --std"),
        ("labels", ["a"], "1 labels for a model of 5 classes"),
        ("sha256", "0" * 64, "expected 000"),
    ):
        assert said in refused(weights, **{option: value}), option


def test_a_description_that_is_not_ours_describes_nothing(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path / "d", make_model())
    weights = directory / "weights.safetensors"
    assert described_in(weights) == directory
    for text in ('weights = "weights.safetensors"\n', 'weights = 3\nfamily = "x"\n', "= =", "\0"):
        (directory / "model.toml").write_text(text)
        assert described_in(weights) is None, text


def test_weights_are_loaded_where_no_reference_models_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from primesvt_deploy.model import reference_models

    directory = write_model_directory(tmp_path / "d", make_model())
    other = shutil.copyfile(directory / "weights.safetensors", tmp_path / "w.safetensors")
    monkeypatch.setattr(reference_models, "_CHECKOUT", tmp_path / "models")
    monkeypatch.setattr(reference_models, "_MODELS_PACKAGE", "primesvt_deploy_models_not_there")
    assert described_in(directory / "weights.safetensors") == directory
    assert described_in(Path(other)) is None
    said = (
        "the reference models are not installed: in a checkout of primesvt-deploy run pip install"
    )
    assert refused(Path("no-such-name")).startswith(f"no model 'no-such-name': {said}")
    with pytest.raises(DeployError, match=said):
        described_weights.models_root()
