"""Help: commands and options under headings, and what is typed first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from small_models import primesvt

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.sections import (
    FIRST_COMMANDS,
    REST_OF_COMMANDS,
    commands_under_headings,
    options_under_headings,
)


def test_without_a_command_help_is_shown_with_what_to_type_first(tmp_path: Path) -> None:
    alone, asked = primesvt(cwd=tmp_path), primesvt("--help", cwd=tmp_path)
    assert (alone.returncode, alone.stdout) == (0, asked.stdout)
    for command, _ in FIRST_COMMANDS:
        assert command in alone.stdout


def test_commands_that_are_typed_first_exist() -> None:
    for line, _ in FIRST_COMMANDS:
        _, name, *words = line.split()
        command = cli.commands[name]
        command.make_context(name, words, parent=click.Context(cli))


def test_every_command_stands_under_a_heading_of_what_a_person_does() -> None:
    groups = commands_under_headings(cli.commands)
    assert REST_OF_COMMANDS not in groups
    assert sorted(name for group in groups.values() for name in group) == sorted(cli.commands)


def test_a_command_of_no_heading_is_shown_all_the_same() -> None:
    assert commands_under_headings(["build", "new"]) == {
        "Make a bundle": ["build"],
        REST_OF_COMMANDS: ["new"],
    }


def test_every_command_reads_settings_and_tells_mistakes_in_one_line() -> None:
    assert all(isinstance(command, Command) for command in cli.commands.values())


@pytest.mark.parametrize("name", ["build", "frontier", "analyze", "bench"])
def test_options_stand_under_headings_each_once(tmp_path: Path, name: str) -> None:
    command = cli.commands[name]
    options = [option for option in command.params if isinstance(option, click.Option)]
    groups = options_under_headings(name, options)
    assert len(groups) >= 4
    assert sorted(o.opts for group in groups.values() for o in group) == sorted(
        option.opts for option in options
    )
    # An option that is new belongs under a heading of `cli/sections.py`.
    assert len(groups["This run"]) <= 6
    text = primesvt(name, "--help", cwd=tmp_path).stdout
    assert all(f"\n{heading}:\n" in text for heading in groups)


def test_what_tells_and_lists_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys\nfrom primesvt_deploy.cli import cli\n"
        "for words in (['--help'], ['build', '--help'], ['--config-schema'], "
        "['completion', 'bash'], ['build', '--show-config']):\n"
        "    cli.main(words, standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'onnxruntime', 'rich'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
