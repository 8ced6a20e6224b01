"""What `pyproject.toml` demands is what the code imports, at versions that have been tried."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from primesvt_deploy.errors import BUILD_PACKAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "primesvt_deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

MODULES = {
    "pillow": "PIL",
    "onnx-ir": "onnx_ir",
    "tomli-w": "tomli_w",
    "torch-pruning": "torch_pruning",
    "model-signing": "model_signing",
    "pyopenssl": "OpenSSL",
    "vl-convert-python": "vl_convert",
}
"""Modules that are called otherwise than their distributions."""

NOT_IMPORTED = {
    "onnxscript": "torch.onnx traces through it",
    "OpenSSL": "model-signing imports it",
}
"""Requirements of the build and sign extras that no file of the package imports, and who does."""

PROGRAMS = {
    *("hatchling", "import-linter", "mkdocs-material", "mkdocstrings-python", "mypy"),
    *("pytest-xdist", "ray", "ruff"),
}
"""Requirements of the dev extra that are run, not imported."""


def modules(requirements: list[str]) -> set[str]:
    """The modules that `requirements` bring."""
    names = {Requirement(r).name for r in requirements}
    return {MODULES.get(name, name) for name in names}


def imported(*folders: Path, at_the_top: bool = False) -> set[str]:
    """Modules of other projects that files in `folders` import.

    Args:
        folders: of Python files.
        at_the_top: without those that functions import when they run.
    """
    files = [f for folder in folders for f in folder.rglob("*.py")]
    assert files
    here = {f.stem for f in files} | {d.name for folder in folders for d in folder.glob("*/")}
    found: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in tree.body if at_the_top else ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - {"primesvt_deploy"} - here - sys.stdlib_module_names


def test_the_package_imports_what_its_extras_install_and_nothing_else() -> None:
    demanded = modules(
        PROJECT["dependencies"] + EXTRAS["build"] + EXTRAS["cluster"] + EXTRAS["sign"]
    )
    assert imported(PACKAGE) == demanded - set(NOT_IMPORTED)


def test_the_build_extra_is_known_to_the_message_about_it() -> None:
    of_ssh = modules(PROJECT["dependencies"] + EXTRAS["ssh"])
    assert modules(EXTRAS["build"]) - of_ssh == BUILD_PACKAGES


def test_every_install_imports_what_it_demands() -> None:
    edge = imported(PACKAGE / "edge")
    assert edge | {"click", "rich", "tomli_w"} == modules(PROJECT["dependencies"])
    commands = imported(PACKAGE / "cli", at_the_top=True)
    assert {"click", "rich"} <= commands <= modules(PROJECT["dependencies"])
    over_ssh = imported(PACKAGE / "devices" / "ssh")
    assert modules(EXTRAS["ssh"]) <= over_ssh
    assert over_ssh <= modules(PROJECT["dependencies"] + EXTRAS["ssh"])


def test_the_build_extra_has_what_the_ssh_extra_has() -> None:
    assert set(EXTRAS["ssh"]) <= set(EXTRAS["build"])
    assert set(EXTRAS["cluster"]) | set(EXTRAS["sign"]) <= set(EXTRAS["dev"])


def test_tests_and_tools_import_what_the_dev_extra_installs() -> None:
    installed = modules(PROJECT["dependencies"] + EXTRAS["build"] + EXTRAS["dev"])
    installed |= {"cryptography"}  # model-signing's own requirement
    installed |= {"atheris"}  # which a tool asks for: not every Python has it
    found = imported(ROOT / "tests", ROOT / "tools", ROOT / "benchmarks")
    # `packaging` is pytest's own requirement, `jsonschema` is altair's.
    assert found - {"packaging", "jsonschema"} <= installed
    assert modules(EXTRAS["dev"]) - PROGRAMS - set(NOT_IMPORTED) <= found


def test_the_lowest_versions_that_are_tried_are_those_that_are_promised() -> None:
    """`make lowest` installs them; see CONTRIBUTING.md."""
    promised = set()
    for text in [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]:
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        assert bound.operator == ">=", text
        promised.add(f"{requirement.name}=={bound.version}")
    lines = (ROOT / "tests" / "packaging" / "lowest.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == promised
