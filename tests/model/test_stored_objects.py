"""Objects that training scripts save beside weights: read as plain values, or refused by name."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pathlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.stored_objects import STORED_OBJECTS, Dropped

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3)}


def as_saved(value: object) -> bytes:
    file = io.BytesIO()
    content = {"net": WEIGHTS, "args": {"value": value}}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def read(path: Path, content: bytes) -> Any:
    """The value after a file was read, of which the weights must have survived."""
    path.write_bytes(content)
    found = read_checkpoint(path)
    assert torch.equal(found.state["a.weight"], WEIGHTS["a.weight"])
    return found.arguments["value"]


@pytest.mark.parametrize("numpy", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize(
    "number",
    [np.float64(0.9), np.float32(0.5), np.float16(2), np.int64(-4), np.uint8(200), np.bool_(True)],
    ids=lambda number: type(number).__name__,
)
def test_numpy_scalars_are_numbers_by_either_numpy(
    tmp_path: Path, number: np.generic, numpy: str
) -> None:
    content = as_saved(number)
    assert b"_core.multiarray" in content or b"numpy.core.multiarray" in content
    content = content.replace(b"numpy._core.multiarray", f"{numpy}.multiarray".encode())
    found = read(tmp_path / "w.pth", content)
    assert found == number.item()
    assert type(found) is type(number.item())


def test_numpy_scalars_of_the_other_byte_order(tmp_path: Path) -> None:
    number = np.array([3.5], ">f8")[0]
    swapped = as_saved(np.float64(3.5)).replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>")
    assert read(tmp_path / "w.pth", as_saved(number)) == 3.5
    assert read(tmp_path / "w.pth", swapped) == np.array(3.5).byteswap()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (argparse.Namespace(T=4), argparse.Namespace(T=4)),
        (types.SimpleNamespace(T=4), argparse.Namespace(T=4)),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.defaultdict(float, a=1.5), {"a": 1.5}),
        (collections.deque([1, 2], maxlen=5), [1, 2]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (pathlib.PosixPath("/data/of/mine"), pathlib.PurePosixPath("/data/of/mine")),
        (pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath("a/b")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_and_paths_keep_what_they_hold(
    tmp_path: Path, value: object, expected: object
) -> None:
    assert read(tmp_path / "w.pth", as_saved(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3),
        np.ones((2, 2), np.float16),
        np.array(["a", "bc"]),
        np.str_("abc"),
        np.datetime64("2024-01-01"),
        np.float32,
        datetime.datetime(2024, 1, 2, 3, 4),
        datetime.timedelta(seconds=3),
    ],
    ids=lambda value: str(value)[:12],
)
def test_other_values_of_numpy_and_dates_are_dropped(tmp_path: Path, value: object) -> None:
    found = read(tmp_path / "w.pth", as_saved(value))
    assert found is Dropped or isinstance(found, Dropped)


class Calls:
    """Reduces to a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_no_function_of_numpy_or_of_the_file_is_ever_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object arrays may hold pointers and pickles: nothing of numpy's own unpickling runs."""
    inner = np.empty(2, dtype=object)
    inner[:] = [WEIGHTS["a.weight"], {"x": 1}]
    content = as_saved(inner)

    def fail(*_: Any) -> None:
        raise AssertionError("numpy was called")

    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        if module in sys.modules:
            monkeypatch.setattr(sys.modules[module], "_reconstruct", fail)
    assert isinstance(read(tmp_path / "w.pth", content), Dropped)
    functions = [one[0] if isinstance(one, tuple) else one for one in STORED_OBJECTS]
    for function in functions:
        assert function.__module__.partition(".")[0] in ("primesvt_deploy", "argparse", "pathlib")


@pytest.mark.parametrize("place", ["args", "net", "array", "defaultdict", "namespace"])
def test_no_command_runs_from_inside_an_object_that_is_read(tmp_path: Path, place: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    command = Calls(os.system, f"echo ran > '{marker}'")
    held: Any = command
    if place == "array":
        held = np.empty(1, dtype=object)
        held[0] = command
    elif place == "defaultdict":
        held = collections.defaultdict(list, x=command)
    elif place == "namespace":
        held = argparse.Namespace(x=command)
    torch.save({"net": WEIGHTS, "x" if place == "net" else "args": held}, path)
    torch.load(path, weights_only=False)
    assert marker.is_file(), "the file is harmless, so this test shows nothing"
    marker.unlink()
    with pytest.raises(ModelError, match=rf"would need code .*{os.name}\.system"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("easydict", "EasyDict", "turn the EasyDict into a dict"),
        ("omegaconf.dictconfig", "DictConfig", "turn the DictConfig into a dict"),
        ("yacs.config", "CfgNode", "turn the CfgNode into a dict"),
        ("trainer.mine", "Settings", "save its state_dict alone"),
    ],
)
def test_a_class_that_is_refused_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, advice: str
) -> None:
    kind = type(name, (dict,), {"__module__": module})
    for depth in range(module.count(".") + 1):
        parts = module.split(".")[: depth + 1]
        monkeypatch.setitem(sys.modules, ".".join(parts), types.ModuleType(".".join(parts)))
    setattr(sys.modules[module], name, kind)
    torch.save({"net": WEIGHTS, "args": kind(T=4)}, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        read_checkpoint(tmp_path / "w.pth")
    message = str(caught.value)
    assert f"it holds a {module}.{name}" in message
    assert advice in message
    assert "safetensors.torch.save_file" in message
    assert "\n" not in message


@pytest.mark.parametrize("function", ["eval", "getattr", "exec", "__import__", "open", "compile"])
def test_functions_of_python_are_refused(tmp_path: Path, function: str) -> None:
    import builtins

    content = Calls(getattr(builtins, function), "1")
    torch.save({"net": WEIGHTS, "x": content}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=rf"it holds a .*{function}"):
        read_checkpoint(tmp_path / "w.pth")
