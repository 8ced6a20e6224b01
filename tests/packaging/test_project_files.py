"""Files about the project say the same as the project."""

from __future__ import annotations

import re
from pathlib import Path

from primesvt_deploy.version import __version__

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = read("Makefile")
    assert "\nlint: style tidy\n" in makefile and "\nstyle: $(READY) cppcheck\n" in makefile
    recipes = re.findall(r"^(?:style|lint):.*\n((?:\t.*\n)+)", makefile, re.M)
    commands = "".join(recipes).replace("\t", "").replace("$(BIN)", ".venv/bin").splitlines()
    hooks = re.findall(r"^ +entry: (.*)$", read(".pre-commit-config.yaml"), re.M)
    assert len(hooks) == 5
    assert sorted(hooks) == sorted([*commands, "make --silent cppcheck tidy"])


def test_the_version_is_in_the_change_log_and_in_the_citation() -> None:
    assert f"\n## [{__version__}]" in read("CHANGELOG.md")
    assert f"\nversion: {__version__}\n" in read("CITATION.cff")


def test_the_licence_is_the_one_that_is_named() -> None:
    assert "Apache License\n                           Version 2.0, January 2004" in read("LICENSE")
    assert '\nlicense = "Apache-2.0"\n' in read("pyproject.toml")
    assert "\nlicense: Apache-2.0\n" in read("CITATION.cff")


def test_contributing_names_only_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.M)
    named = re.findall(r"`make ([a-z-]+)`", read("CONTRIBUTING.md") + read("README.md"))
    assert set(named) <= set(targets)
