"""The next command to type is the one that was typed, with other options."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.options.repeat import repeated


def next_command(*words: str, **changes: str | bool | None) -> str:
    build = cli.commands["build"]
    with build.make_context("build", list(words), parent=click.Context(cli)) as context:
        return repeated(context, changes)


@pytest.mark.parametrize(
    ("words", "changes", "expected"),
    [
        ((), {}, ""),
        (("--budget-mb", "20"), {"budget_mb": "4.2"}, " --budget-mb 4.2"),
        (("--budget-mb=20", "--force"), {"budget_mb": None, "force": True}, " --force"),
        (("--images",), {"policy": "greedy"}, " --images --policy greedy"),
        (("--ignore", "a b", "--ignore", "c.*"), {}, " --ignore 'a b' --ignore 'c.*'"),
        (("--saving", "12.5", "--seed", "3"), {"saving": "50"}, " --saving 50 --seed 3"),
    ],
)
def test_options_are_kept_or_changed(
    words: tuple[str, ...], changes: dict[str, str | bool | None], expected: str
) -> None:
    assert next_command(*words, **changes) == f"primesvt-deploy build{expected}"


def test_a_file_of_settings_is_named_again_and_its_settings_are_not(tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text("[build]\nseed = 3\n")
    typed = next_command("--config", str(file), "--budget-mb", "20", budget_mb="4")
    assert sorted(typed.split()[2:]) == sorted(["--config", str(file), "--budget-mb", "4"])
