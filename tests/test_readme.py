from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from primesvt_deploy.families import FAMILIES

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_in_texts_are_those_of_the_result_files(tables: ModuleType) -> None:
    for path in tables.texts():
        assert tables.filled(path) == path.read_text(), (
            f"{path.name}: run python benchmarks/tables.py"
        )


def test_readme_has_every_table(tables: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    for section in ("saving", "time", "latency", "families", "frontier", "recovery"):
        assert f"<!-- {section} -->" in readme


def test_links_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_readme_lists_every_family_with_the_flags_it_demands() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*)$", (ROOT / "README.md").read_text(), re.M))
    for family in FAMILIES:
        demanded = re.sub(r"\[.*?\]", "", family.flags).split()
        assert all(flag in rows[family.name] for flag in demanded), family.name
