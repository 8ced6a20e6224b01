"""The file of a model's weights: which files are opened, and how they are told apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_nets import Attending
from safetensors.torch import save_file
from small_models import enliven

from primesvt_deploy import adopt, load
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.reference_models import DEFAULT_MODEL, models_root
from primesvt_deploy.model.source import Source
from primesvt_deploy.model.svit import SViT

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3)}


def save_legacy(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.fixture(params=["w.pth", "old.pth", "w.safetensors"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    save: Callable[..., Any] = {"w": torch.save, "old": save_legacy}[path.stem]
    (save_file if path.suffix == ".safetensors" else save)(STATE, path)
    return path


def test_a_file_is_known_by_its_sha256(file: Path) -> None:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert read_checkpoint(file).source == Source(file.name, digest, len(content))
    for given in (digest, digest.upper()):
        assert torch.equal(read_checkpoint(file, sha256=given).state["a.weight"], STATE["a.weight"])


def test_one_other_bit_is_another_file(file: Path) -> None:
    content = bytearray(file.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[-3] ^= 1
    file.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        ModelError, match=rf"has the SHA-256 {found}, expected {expected} .*copy it again"
    ):
        read_checkpoint(file, sha256=expected)


@pytest.mark.parametrize("given", ["", "abc", "g" * 64, "a" * 63, "a" * 65, " " + "a" * 64])
def test_what_is_no_sha256_is_refused_before_the_file_is_read(tmp_path: Path, given: str) -> None:
    with pytest.raises(ModelError, match="expected 64 hexadecimal digits"):
        read_checkpoint(tmp_path / "none.pth", sha256=given)


def refused(path: Path) -> set[str]:
    """Lines with which each way of reading a checkpoint refuses a path, without the path."""
    lines = set()
    for read in (
        lambda: read_checkpoint(path),
        lambda: adopt("own_nets:attending", image_size=16, checkpoint=path),
        lambda: load(path),
    ):
        with pytest.raises(ModelError) as caught:
            read()
        assert "\n" not in str(caught.value)
        lines.add(str(caught.value))
    return lines


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"w{suffix}")
    (line,) = refused(tmp_path / f"w{suffix}")
    assert "(it is a pipe (FIFO)), expected a file: check --checkpoint" in line


def test_a_device_is_not_read() -> None:
    (line,) = refused(Path("/dev/zero"))
    assert "(it is a character device), expected a file" in line


@pytest.mark.parametrize("name", ["a" * 256, "a" * 5000, "\n" * 300])
def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, name: str) -> None:
    for line in refused(tmp_path / name):
        assert "File name too long" in line or line.startswith("no model ")


def test_models_say_which_file_they_come_from(tmp_path: Path) -> None:
    weights = models_root() / DEFAULT_MODEL / "weights.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    model = load(DEFAULT_MODEL)
    assert model.source == Source("weights.safetensors", digest, weights.stat().st_size)
    with pytest.raises(ModelError, match="drop --sha256"):
        load(DEFAULT_MODEL, sha256=digest)


def test_the_digest_of_a_model_does_not_depend_on_its_file(tmp_path: Path) -> None:
    net = enliven(Attending(), seed=5)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save(net.state_dict(), tmp_path / "w.pth")

    def read(name: str | None) -> SViT:
        path = None if name is None else tmp_path / name
        return adopt(net, image_size=16, checkpoint=path)

    models = [read(None), read("w.safetensors"), read("w.pth")]
    assert [model.source and model.source.file for model in models] == [
        None,
        "w.safetensors",
        "w.pth",
    ]
    assert len({model.digest for model in models}) == 1
    with pytest.raises(ModelError, match="--sha256 is of a checkpoint: pass --checkpoint"):
        adopt(net, image_size=16, sha256="a" * 64)
    with pytest.raises(ModelError, match=r"expected a{64}"):
        adopt(net, image_size=16, checkpoint=tmp_path / "w.pth", sha256="A" * 64)
