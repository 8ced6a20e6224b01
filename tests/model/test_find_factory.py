"""A factory is looked for in its module's source, which is not imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.find_factory import find_factory

SOURCE = """
raise SystemExit("nobody imports this")
from nets import imported as renamed
try:
    from fast import made
except ImportError:
    def made(): ...
first, (second, third) = 1, (2, 3)
class Net:
    def inner(self): ...
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "nets.py").write_text(SOURCE)
    (tmp_path / "starred.py").write_text("from elsewhere import *")
    (tmp_path / "lazy.py").write_text("def __getattr__(name): ...")


@pytest.mark.parametrize(
    "factory",
    [
        *(f"mine.nets:{name}" for name in ("renamed", "made", "first", "third", "Net")),
        "starred:anything",
        "lazy:anything",
        "json:loads",
        "math:sin",
        "sys:exit",
    ],
)
def test_what_may_be_there_is_left_to_the_call(factory: str) -> None:
    find_factory(factory)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("mine.nets:inner", "nets.py has no 'inner': it has Net"),
        ("mine.nots:made", "there is no module 'mine.nots' in"),
        ("nots:made", "there is no module 'nots' in"),
        ("mine/nets.py:made", "not of a file: pass mine.nets:made"),
        ("mine.nets", "expected MODULE:FUNCTION"),
        (":made", "expected MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_there_is_refused(factory: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_factory(factory)
    assert said in str(caught.value) and "\n" not in str(caught.value)
