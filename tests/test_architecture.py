"""`docs/architecture.md` names files and names that exist, and every package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "primesvt_deploy"
TEXT = (ROOT / "docs" / "architecture.md").read_text()
PARAGRAPHS = dict(re.findall(r"^\*\*`(\w+)/`\*\*: (.*?)\n\n", TEXT, re.M | re.S))
"""What is said of each package."""


def test_there_is_a_paragraph_for_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if "containers" in c)
    names = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    assert sorted(PARAGRAPHS) == sorted(name for name in names if (PACKAGE / name).is_dir())


@pytest.mark.parametrize("package", PARAGRAPHS)
def test_files_in_a_packages_paragraph_are_in_the_package(package: str) -> None:
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", PARAGRAPHS[package]):
        assert (PACKAGE / package / name).exists(), name


def test_files_elsewhere_in_the_text_exist() -> None:
    text = re.sub(r"^## Packages$.*?^## ", "", TEXT, flags=re.M | re.S)
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        if "NAME" not in name:
            assert any((base / name).exists() for base in (PACKAGE, ROOT)), name


def test_names_in_the_text_are_names_in_the_code() -> None:
    sources = [path for kind in ("*.py", "*.c", "*.h") for path in PACKAGE.rglob(kind)]
    code = "\n".join([*(path.read_text() for path in sources), *(path.name for path in sources)])
    for name in re.findall(r"`([A-Za-z_]+(?:\.[a-z_]+)?)(?:\([a-z_, ]*\))?`", TEXT):
        assert all(re.search(rf"\b{part}\b", code) for part in name.split(".")), name
