"""A package that is installed but broken is told from a mistake of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import primesvt_deploy
from primesvt_deploy.cli import main
from primesvt_deploy.cli.broken import broken_package

OURS = f"{Path(primesvt_deploy.__file__).parent}/cli/made_up.py"
BROKEN = {
    "a library": ("raise ImportError('libx.so: cannot open')", "ImportError: libx.so: cannot open"),
    "cut short": ("def made(:", "SyntaxError: invalid syntax"),
    "another version": ("raise RuntimeError('bad\\nworse')", "RuntimeError: bad)"),
    "a check that ends": ("raise SystemExit(3)", "SystemExit: 3"),
    "of the system": ("raise OSError('no')", "OSError: no"),
    "what it needs": ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    "its own part": ("import brokenpkg.part", "No module named 'brokenpkg.part'"),
    "lacks a name": ("", "cannot import name 'made'"),
    "deeper": ("def f(): raise ValueError('x')\nf()", "ValueError: x"),
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `brokenpkg` that can be imported."""
    (tmp_path / "brokenpkg").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "brokenpkg", raising=False)
    return tmp_path / "brokenpkg/__init__.py"


def error_of(source: str) -> BaseException:
    """What a file of this package raises that has this content."""
    with pytest.raises(BaseException) as caught:
        exec(compile(source, OURS, "exec"), {"__name__": "primesvt_deploy.cli.made_up"})
    return caught.value


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    "line", ["from brokenpkg import made", "import importlib\nimportlib.import_module('brokenpkg')"]
)
def test_the_package_and_the_reason_are_named(name: str, line: str, package: Path) -> None:
    source, said = BROKEN[name]
    if not source and "importlib" in line:
        return
    package.write_text(source)
    told = str(broken_package(error_of(line)))
    assert told.startswith("brokenpkg is installed but cannot be loaded (")
    assert said in told and told.endswith("see `primesvt-deploy doctor`")


@pytest.mark.parametrize(
    "source",
    [
        "raise ImportError('ours')",
        "raise RuntimeError",
        "import nowhere_at_all",
        "from primesvt_deploy.errors import nowhere",
        "import primesvt_deploy.nowhere",
        "import json\njson.loads('{')",
        "import brokenpkg\nbrokenpkg.call()",
        "import brokenpkg\nraise SystemExit(1)",
        "eval('(')",
    ],
)
def test_mistakes_of_ours_are_not(source: str, package: Path) -> None:
    package.write_text("def call(): raise RuntimeError('used wrongly')")
    assert broken_package(error_of(source)) is None


def test_a_command_says_it_on_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package.write_text("raise ImportError('libx.so')")

    def fails(*_arguments: object, **_options: object) -> None:
        error = error_of("import brokenpkg")
        raise error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)

    monkeypatch.setattr("primesvt_deploy.edge.runtime.bundle.read_manifest", fails)
    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", "inspect", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: brokenpkg is installed but cannot"), (
        said
    )
