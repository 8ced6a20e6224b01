"""Paths that no file can have, or that would break a line: one line on commands and in the API."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import make_model

from primesvt_deploy import Classifier, load, open_data
from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.cli import main
from primesvt_deploy.cli.options.common import USER_PATH
from primesvt_deploy.edge.bench.configurations import open_subject
from primesvt_deploy.edge.runtime.frames import read_frames
from primesvt_deploy.edge.runtime.images import read_image
from primesvt_deploy.errors import DeployError, SettingsError
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.pipeline.frontier_files import FrontierWriter

PATHS = {
    "a long name": "a" * 256,
    "a long name in UTF-8": "ä" * 130,
    "a long path": "a/" * 2100,
    "a line break": "new\nline",
    "an escape": "\x1b[31mred",
    "a line separator": "new\u2028line",
    "half a character": "caf\udce9",
}
IMPOSSIBLE = ("a long name", "a long name in UTF-8", "a long path")
"""Nothing can be written there."""


_model = functools.cache(make_model)


@pytest.fixture(autouse=True, scope="module")
def a_model() -> None:
    """Made before the tests, as the first takes longer."""
    _model()


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


READERS: dict[str, Callable[[str], object]] = {
    "load": load,
    "open_data": lambda path: open_data(_model(), path),
    "open_data, npz": lambda path: open_data(_model(), f"{path}.npz"),
    "Classifier": Classifier,
    "read_image": read_image,
    "read_frames": read_frames,
    "read_checkpoint": lambda path: read_checkpoint(Path(path)),
    "open_subject": lambda path: open_subject(Path(path), "a"),
}


def refused(action: Callable[[], object]) -> None:
    with pytest.raises(DeployError) as caught:
        action()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", [*PATHS.values(), "a\0b"], ids=[*PATHS, "a null character"])
def test_reading_in_the_api(reader: str, path: str) -> None:
    refused(lambda: READERS[reader](path))


@pytest.mark.parametrize("path", [*(PATHS[n] for n in IMPOSSIBLE), "a\0b"])
def test_writing_in_the_api(path: str) -> None:
    refused(lambda: Workspace(path, force=False))
    refused(lambda: FrontierWriter(Path(path), key="k", policy="p"))


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "run": lambda path: ["run", path, "x.png"],
    "verify": lambda path: ["verify", path],
    "inspect": lambda path: ["inspect", path],
    "bench": lambda path: ["bench", path],
    "bench --output": lambda path: ["bench", "nothing", "--output", path],
    "compare": lambda path: ["compare", path, "other.json"],
    "build --checkpoint": lambda path: ["build", "--checkpoint", path],
    "build --labels": lambda path: ["build", "--labels", path],
    "frontier --output": lambda path: ["frontier", "--model", "none", "--output", path],
    "analyze --checkpoint": lambda path: ["analyze", "--checkpoint", path],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_commands(
    command: str,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", *COMMANDS[command](path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n")
    assert err[:-1].isprintable()


@pytest.mark.parametrize("path", ["a" * 255, "ä" * 127, "a/" * 2047, "caf\udce9", " x\u202e"])
def test_paths_that_a_file_may_have_pass(path: str) -> None:
    assert os.fspath(USER_PATH.convert(path, None, None)) == os.fspath(Path(path))


def test_an_empty_path_is_not_the_current_directory() -> None:
    with pytest.raises(SettingsError, match="path is empty: expected a path"):
        USER_PATH.convert("", None, None)


@pytest.mark.parametrize(
    "action",
    [
        lambda: load(""),
        lambda: open_data(_model(), ""),
        lambda: Workspace("", force=False),
        lambda: Classifier(""),
    ],
)
def test_nor_is_it_in_the_api(action: Callable[[], object], tmp_path: Path) -> None:
    (tmp_path / "model.toml").touch()
    (tmp_path / "ant").mkdir()
    with pytest.raises(DeployError, match=r"empty|no model ''"):
        action()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_lengths_are_those_of_bytes(name: str) -> None:
    with pytest.raises(SettingsError, match="expected at most 4095 bytes, and 255 between"):
        USER_PATH.convert(PATHS[name], None, None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(36, "File name too long", "a\nb"), r"error: File name too long: a\nb" + "\n"),
        (PermissionError(13, "Permission denied"), "error: Permission denied: while writing\n"),
    ],
)
def test_an_error_of_the_system_is_one_line(
    error: OSError,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr("primesvt_deploy.edge.runtime.bundle.read_manifest", fails)
    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", "inspect", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == said
