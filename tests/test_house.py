"""Rules of the house: where modules stand, how docstrings begin, and that what they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "primesvt_deploy"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOOSE = {"__init__.py", "errors.py", "version.py"}
DANGLING = ("What", "Of", "So", "Those", "Where", "That", "Which", "Whose")
"""Words that leave a first line unfinished without the signature."""
SUFFIXES = {
    *("py", "c", "h", "md", "html", "svg", "log"),
    *("toml", "json", "jsonl", "npz", "onnx", "ort"),
}


def test_no_module_is_loose_at_the_top() -> None:
    """A new module belongs into a package; docs/architecture.md says which."""
    assert {path.name for path in PACKAGE.glob("*.py")} == LOOSE


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    nodes = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, nodes) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def test_a_docstrings_first_line_stands_on_its_own() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in MODULES
        for line, text in docstrings(path)
        if text.split(maxsplit=1)[0] in DANGLING
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["primesvt_deploy", "docs", "tests", "tools", "benchmarks"])
def test_modules_that_are_named_exist(folder: str) -> None:
    """`package.module` and `package.module.name` in backticks, in code and documents."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    stale = []
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix not in (".py", ".md") or "results" in path.parts:
            continue
        for name in re.findall(r"`((?:\w+\.)+\w+)`", path.read_text(encoding="utf-8")):
            parts = name.removeprefix("primesvt_deploy.").split(".")
            if parts[0] in packages and parts[-1] not in SUFFIXES and not exists(parts):
                stale.append(f"{path.relative_to(ROOT)}: {name}")
    assert not stale, "\n".join(stale)


def exists(parts: list[str]) -> bool:
    """Whether parts are a module, or something that a module mentions."""
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:length])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                rest = parts[length : length + 1]
                source = file.read_text(encoding="utf-8")
                return not rest or re.search(rf"\b{rest[0]}\b", source) is not None
    return False
