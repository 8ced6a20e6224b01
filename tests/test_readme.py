from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from primesvt_deploy.families import FAMILIES

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*/README.md")]


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


def test_every_table_stands_in_one_text(tables: ModuleType) -> None:
    texts = [path.read_text() for path in tables.texts()]
    for section in tables.sections():
        assert sum(f"<!-- {section} -->" in text for text in texts) == 1, section


def test_links_lead_somewhere() -> None:
    for path in TEXTS:
        shown = re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", shown):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_anchors_are_headings() -> None:
    for path in TEXTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text()):
            page = path.parent / target if target else path
            if page.suffix == ".md":
                assert anchor in anchors(page), f"{path.name}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s+", "-", heading) for heading in plain}


def test_readme_is_a_front_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_families_are_listed_with_the_flags_they_demand() -> None:
    text = (ROOT / "docs" / "families.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*)$", text, re.M))
    for family in FAMILIES:
        demanded = re.sub(r"\[.*?\]", "", family.flags).split()
        assert all(flag in rows[family.name] for flag in demanded), family.name
