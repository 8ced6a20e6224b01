"""Checkpoints come from anywhere: whatever they hold, they are read as data or refused."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint


def a_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "stem.weight": torch.randn(7, 3, generator=generator),
        "stem.bias": torch.randn(7, generator=generator),
        "steps": torch.tensor(3),
    }


def assert_same(state: dict[str, torch.Tensor]) -> None:
    expected = a_state()
    assert list(state) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key
        assert state[key].dtype == tensor.dtype


def refused(path: Path) -> str:
    """The one line with which reading `path` is refused; it names the file."""
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


class RunsACommand:
    """Unpickled by an unwary reader, it writes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo ran > '{self.marker}'",)


class OfTheUser:
    """A class of the training script, pickled beside the weights."""


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(a_state(), path, metadata={"family": "spikformer"})
    found = read_checkpoint(path)
    state = found.state
    assert found.metadata == {"family": "spikformer"}
    assert set(state) == set(a_state())
    assert torch.equal(state["stem.weight"], a_state()["stem.weight"])


def test_safetensors_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(a_state(), path)
    assert read_checkpoint(path).metadata == {}


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "module"])
def test_torch_file(tmp_path: Path, container: str | None, save: object) -> None:
    path = tmp_path / "w.pth"
    content: object = a_state()
    if container is not None:
        content = {"epoch": 3, container: a_state(), "args": argparse.Namespace(lr=0.1, T=4)}
    save(content, path)  # type: ignore[operator]
    found = read_checkpoint(path)
    assert found.metadata == {}
    assert found.arguments == ({} if container is None else {"lr": 0.1, "T": 4})
    assert_same(found.state)


@pytest.mark.parametrize("entry", ["args", "hyper_parameters"])
@pytest.mark.parametrize("kind", [dict, lambda **given: argparse.Namespace(**given)])
def test_arguments_are_those_beside_the_weights(tmp_path: Path, entry: str, kind: Any) -> None:
    path, inner, outer = tmp_path / "w.pth", kind(T=4), kind(T=6)
    for content, steps in (
        ({"net": a_state(), entry: inner}, 4),
        ({"a": {"net": a_state(), entry: inner}, entry: outer}, 4),
        ({"a": {"net": a_state()}, entry: outer}, 6),
        ({**a_state(), entry: inner}, 4),
    ):
        torch.save(content, path)
        found = read_checkpoint(path)
        assert (found.arguments, found.ignored) == ({"T": steps}, ())
        assert_same(dict(found.state))


def test_a_state_dict_of_numpy_arrays_is_refused_by_that_name(tmp_path: Path) -> None:
    torch.save({"net": {"a.weight": np.ones((2, 2))}}, tmp_path / "w.pth")
    assert "expected a tensor" in refused(tmp_path / "w.pth")
    torch.save({"model": {"a.weight": np.ones((2, 2))}}, tmp_path / "w.pth")
    assert "'a.weight' is a numpy array or the like, expected a" in refused(tmp_path / "w.pth")


def test_averaged_weights_are_read_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.pth.tar"
    average = {k: v + 1 for k, v in a_state().items()}
    torch.save({"state_dict": a_state(), "state_dict_ema": average}, path)
    plain, ema = read_checkpoint(path), read_checkpoint(path, ema=True)
    assert_same(plain.state)
    assert torch.equal(ema.state["stem.bias"], a_state()["stem.bias"] + 1)


def test_averaged_weights_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(a_state(), path)
    with pytest.raises(ModelError, match=r"holds no averaged weights .*: drop --ema"):
        read_checkpoint(path, ema=True)
    safe = tmp_path / "w.safetensors"
    save_file(a_state(), safe)
    with pytest.raises(ModelError, match="drop --ema"):
        read_checkpoint(safe, ema=True)


def test_trained_parameters_are_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, path)
    assert torch.equal(read_checkpoint(path).state["w"], torch.ones(2))


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint file at .*: check --checkpoint"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_at_any_length(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / "whole"
    if kind == "safetensors":
        save_file(a_state(), whole)
    else:
        {"zip": torch.save, "legacy": save_legacy}[kind](a_state(), whole)
    content = whole.read_bytes()
    cut = tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pth")
    for length in [*range(0, 40), *range(40, len(content) - 40, 37), len(content) - 1]:
        cut.write_bytes(content[:length])
        message = refused(cut)
        assert "whole" in message or "truncated" in message or "damaged" in message, length


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_never_give_another_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(a_state(), path)
    else:
        {"zip": torch.save, "legacy": save_legacy}[kind](a_state(), path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(1)
    refusals = 0
    for _ in range(250):
        damaged = bytearray(content)
        for _ in range(3):
            place = int(torch.randint(len(content), (), generator=generator))
            damaged[place] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)  # bytes of a tensor may be flipped unnoticed
        except ModelError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 0


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint\nat all\n"])
def test_empty_and_text_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(path)
    assert "copy it again" in message


def test_a_file_is_of_the_format_that_it_begins_with(tmp_path: Path) -> None:
    torch.save(a_state(), tmp_path / "w.safetensors")
    save_file(a_state(), tmp_path / "w.pth")
    save_file(a_state(), tmp_path / "w.SAFETENSORS")
    for name in ("w.safetensors", "w.pth", "w.SAFETENSORS"):
        found = read_checkpoint(tmp_path / name).state
        assert all(torch.equal(found[key], tensor) for key, tensor in a_state().items())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_runs_its_command(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"w": RunsACommand(marker)}, protocol))
    pickle.loads(path.read_bytes())
    assert marker.is_file(), "the pickle is harmless, so this test shows nothing"
    marker.unlink()
    assert "nothing of it was loaded" in refused(path)
    assert not marker.exists()


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
def test_no_torch_file_runs_its_command(tmp_path: Path, save: object) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    save({"state_dict": a_state(), "extra": RunsACommand(marker)}, path)  # type: ignore[operator]
    message = refused(path)
    assert f"would need code to load (it holds a {os.name}.system), so nothing of it" in message
    assert "save its state_dict alone" in message
    assert not marker.exists()


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
def test_objects_of_the_users_classes_are_not_made(tmp_path: Path, save: object) -> None:
    path = tmp_path / "w.pth"
    save({"state_dict": a_state(), "trainer": OfTheUser()}, path)  # type: ignore[operator]
    assert f"would need code to load (it holds a {__name__}.OfTheUser), so nothing" in refused(path)


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    assert "save its state_dict alone" in refused(tmp_path / "w.pth")


def test_torchscript_is_told_from_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(path)
    assert "would need code to load" in message
    assert "copy it again" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": torch.zeros(2), "kept": [torch.zeros(2)]}, "'kept' is a list, expected a tensor"),
        ({"state_dict": {"w": [1.0, 2.0]}}, "'w' is a list, expected a tensor"),
        ({"optimizer": {"lr": 1.0}}, "'optimizer' is a dict, expected a tensor"),
        ({3: torch.zeros(2)}, "3 is no name of a tensor"),
        ([torch.zeros(2)], "holds a list, expected a state_dict"),
        (torch.zeros(2), "holds a Tensor, expected a state_dict"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
    ],
)
def test_torch_file_that_is_no_state_dict(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert said in refused(tmp_path / "w.pth")


def test_safetensors_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "w.safetensors")
    assert "holds no tensors" in refused(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda ones: ones.to_sparse(), "is a sparse tensor"),
        (lambda ones: ones.to_sparse_csr(), "is a sparse tensor"),
        (lambda ones: ones.to("meta"), "is a meta tensor"),
        (lambda ones: torch.nested.nested_tensor([ones]), "holds a nested tensor"),
        (
            lambda ones: torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
            "is a quantized tensor",
        ),
        (lambda ones: ones[:1, :1].clone().expand(10**6, 10**6), "the file holds 4 bytes of it"),
    ],
    ids=["sparse", "compressed rows", "meta", "nested", "quantized", "expanded"],
)
def test_tensors_that_are_no_arrays_are_one_line(
    tmp_path: Path, kind: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    torch.save({**a_state(), "head.weight": kind(torch.ones(3, 3))}, tmp_path / "w.pth")
    assert said in refused(tmp_path / "w.pth")


def test_a_container_that_holds_itself_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": a_state(), "best_acc": torch.empty((), device="meta")}
    content["metrics"] = content
    torch.save(content, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth")
    assert_same(dict(found.state))
    assert found.accuracy is None
