"""The names in a checkpoint file are those that are read when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families.vectors import FIXTURES, vector
from safetensors.torch import save_file

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.peek import Peeked, peek

STATE = {"module.a.weight": torch.ones(2, 2), "module.a.bias": torch.ones(2)}
KEYS = ("a.weight", "a.bias")


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pt*")), ids=lambda path: path.name)
def test_keys_are_those_of_the_loaded_checkpoint(path: Path) -> None:
    found = peek(path)
    read = [key.removeprefix("module.") for key in read_checkpoint(path).state]
    assert list(found.keys) == read
    assert found.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file(tmp_path: Path, zipped: bool) -> None:
    def saved(content: object) -> Peeked:
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        return peek(tmp_path / "w.pth")

    assert saved(STATE) == Peeked(KEYS, arguments=False)
    assert saved({"state_dict": STATE, "epoch": 3}) == Peeked(KEYS, arguments=False)
    assert saved({"state_dict": STATE, "args": {"T": 4}}) == Peeked(KEYS, arguments=True)
    assert saved({"model": {"state_dict": STATE}, "args": {}}) == Peeked(KEYS, arguments=True)
    # It is not clear which of them is meant, or what the rest is.
    assert saved({"state_dict": STATE, "model": STATE}) == Peeked()
    assert saved({"student": STATE}) == Peeked()
    assert saved([1, 2]) == Peeked()


def test_a_safetensors_file(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.bin", metadata={"family": "spikformer"})
    found = peek(tmp_path / "w.bin")
    assert (sorted(found.keys), found.family) == (sorted(KEYS), "spikformer")
    assert not found.arguments
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.bin").read_bytes()[:20])
    assert peek(tmp_path / "cut.safetensors") == Peeked()


def test_damage_is_left_to_reading(tmp_path: Path) -> None:
    torch.save(vector("spikformer_cifar")["state_dict"], tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for cut in (40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w.pth").write_bytes(whole[:cut])
        assert peek(tmp_path / "w.pth") == Peeked()
    (tmp_path / "w.pth").write_bytes(b"\x80\x02garbage")
    assert peek(tmp_path / "w.pth") == Peeked()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n", "but an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "but a pointer of Git LFS"),
        (b"dear diary", "it begins with b'dear dia'"),
    ],
)
def test_other_files_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        peek(tmp_path / "w.pth")
    assert said in str(caught.value) and "\n" not in str(caught.value)
