"""Settings that `--show-config` prints are those that `--config` reads, of every command."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.config.read import has_settings, options_by_key
from primesvt_deploy.cli.config.values import COMMA_LISTS, NAME_OR_PATH, NUMBER_OR_WORD
from primesvt_deploy.cli.option_words import key_of

COMMANDS = [name for name, command in cli.commands.items() if has_settings(command)]


def shown(command: str, *arguments: str) -> str:
    """What a command prints as its settings."""
    result = CliRunner().invoke(cli, [command, *arguments, "--show-config"])
    assert result.exit_code == 0, result.output or result.exception
    return result.output


def options_of(command: str) -> list[click.Option]:
    return list({id(o): o for o, _ in options_by_key(cli.commands[command]).values()}.values())


def words_for(option: click.Option) -> list[str]:
    """An option with a value that is not its default, as it is typed."""
    flag = max((*option.secondary_opts, *option.opts), key=len)
    if option.is_flag:
        return [flag]
    kind = option.type
    if isinstance(kind, click.Choice):
        value = str(kind.choices[-1])
    elif isinstance(kind, click.Path):
        value = "some/where"
    elif isinstance(kind, click.types.IntParamType):
        value = "7"
    elif isinstance(kind, click.types.FloatParamType):
        value = "2.5"
    else:
        value = "0.25,x" if key_of(option) in COMMA_LISTS else 'a "word"'
    return [flag, value, flag, "second"] if option.multiple else [flag, value]


def test_every_command_that_has_settings_can_read_and_show_them() -> None:
    assert {"build", "frontier", "analyze", "verify", "run", "bench", "compare"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_shown_settings_read_back_as_the_same(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    schema = json.loads(CliRunner().invoke(cli, ["--config-schema"]).output)
    options = options_of(command)
    for given in ([], options[::2], options[1::2], options):
        words = [word for option in given for word in words_for(option)]
        text = shown(command, *words)
        content = tomllib.loads(text)
        assert set(content[command]) == {key_of(option) for option in given}
        jsonschema.validate(content, schema)
        (elsewhere / "s.toml").write_text(text)
        assert shown(command, "--config", str(elsewhere / "s.toml")) == text
        # Defaults are comments, which become settings of the same value.
        (elsewhere / "s.toml").write_text(text.replace("\n# ", "\n"))
        jsonschema.validate(tomllib.loads((elsewhere / "s.toml").read_text()), schema)
        assert set(tomllib.loads(shown(command, "--config", str(elsewhere / "s.toml"))))


def test_settings_are_shown_without_arguments_and_with_them() -> None:
    assert shown("run", "--top", "2") == shown("run", "bundle", "a.jpg", "--top", "2")


def test_an_existing_model_directory_is_shown_with_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert tomllib.loads(shown("build", "--model", "tiny"))["build"]["model"] == str(
        tmp_path / "tiny"
    )
    assert tomllib.loads(shown("build", "--model", "name"))["build"]["model"] == "name"


@pytest.mark.parametrize(
    "content",
    [
        {"build": {"bugdet-mb": 3}},
        {"build": {"budget-mb": "3"}},
        {"build": {"batch": 2.5}},
        {"build": {"precision": "int3"}},
        {"build": {"force": "yes"}},
        {"run": {"top": 0}},
        {"biuld": {}},
        {"sead": 1},
        {"seed": "one"},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_command_refuses(content: dict[str, object]) -> None:
    schema = json.loads(CliRunner().invoke(cli, ["--config-schema"]).output)
    jsonschema.Draft7Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_the_schema_knows_help_and_defaults() -> None:
    schema = json.loads(CliRunner().invoke(cli, ["--config-schema"]).output)
    seed = schema["properties"]["build"]["properties"]["seed"]
    assert seed == {"type": "integer", "default": 0, "description": "Of image order, split."}
    # `frontier` is a section, and an option of `build`.
    jsonschema.validate({"frontier": "directory"}, schema)
    jsonschema.validate({"frontier": {"savings": [10, 20]}}, schema)


@pytest.mark.parametrize("names", [COMMA_LISTS, NUMBER_OR_WORD, NAME_OR_PATH], ids=len)
def test_tables_name_options_that_exist(names: set[str]) -> None:
    text = {
        key_of(option)
        for command in COMMANDS
        for option in options_of(command)
        if isinstance(option.type, click.types.StringParamType)
    }
    assert names <= text
