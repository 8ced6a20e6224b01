"""Settings in effect as TOML that `--config` reads back, and the JSON schema of such files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
import tomli_w
from click.core import ParameterSource

from primesvt_deploy.cli.config.read import (
    CONFIG_OPTIONS,
    configurable_commands,
    options_by_key,
)
from primesvt_deploy.cli.config.values import NAME_OR_PATH, schema_of, to_toml
from primesvt_deploy.cli.option_words import key_of

__all__ = ["config_schema", "settings_in_toml"]

_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)


def settings_in_toml(ctx: click.Context) -> str:
    """Settings of a context's command as TOML, for its section of a file.

    What was given, on the command line or in a file, is a setting; defaults are comments, so that
    the text reads back as the same command. Paths that were given are absolute, as the text may be
    kept anywhere.
    """
    name = str(ctx.command.name)
    lines = [
        f"# Settings of `primesvt-deploy {name}`, for --config. Those after # are defaults.",
        f"[{name}]",
    ]
    for option in ctx.command.params:
        if not isinstance(option, click.Option) or option.name in CONFIG_OPTIONS:
            continue
        given = ctx.get_parameter_source(str(option.name)) in _GIVEN
        value = to_toml(option, ctx.params.get(str(option.name)))
        if value is None or (not given and value == []):
            continue
        value = _absolute(option, value) if given else value
        text = tomli_w.dumps({key_of(option): value}).rstrip()
        lines += text.splitlines() if given else [f"# {line}" for line in text.splitlines()]
    return "\n".join(lines)


def _absolute(option: click.Option, value: Any) -> Any:
    if isinstance(option.type, click.Path):
        return os.path.abspath(value) if value else value
    is_path = key_of(option) in NAME_OR_PATH and value and os.path.exists(value)
    return os.path.abspath(value) if is_path else value


def config_schema(ctx: click.Context) -> dict[str, Any]:
    """JSON schema (draft 7) of a file of settings: sections of commands, and keys above them."""
    commands = configurable_commands(ctx)
    tables = {name: _keys_of(command) for name, command in commands.items()}
    common: dict[str, list[Mapping[str, Any]]] = {}
    for keys in tables.values():
        for key, schema in keys.items():
            if schema not in common.setdefault(key, []):
                common[key].append(schema)
    shared = {
        key: found[0] if len(found) == 1 else {"anyOf": found} for key, found in common.items()
    }
    sections = {
        name: {
            "type": "object",
            "description": commands[name].get_short_help_str(200),
            "properties": keys,
            "additionalProperties": False,
        }
        for name, keys in tables.items()
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Settings of primesvt-deploy (--config)",
        "type": "object",
        # A section and a key may have the same name, as `frontier` of `build`.
        "properties": {
            name: {"anyOf": [shared[name], sections[name]]}
            if name in shared and name in sections
            else {**shared, **sections}[name]
            for name in sorted({*shared, *sections})
        },
        "additionalProperties": False,
    }


def _keys_of(command: click.Command) -> dict[str, dict[str, Any]]:
    return {key: schema_of(option) for key, (option, _) in options_by_key(command).items()}
