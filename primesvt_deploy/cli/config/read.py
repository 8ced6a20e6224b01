"""Read a file of settings: for every option of a command the value that the file gives it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.cli.config.lines import line_of, repeated_key
from primesvt_deploy.cli.config.values import from_toml
from primesvt_deploy.cli.mistakes import wrong_value
from primesvt_deploy.cli.option_words import in_words, is_plain_flag, key_of, nearest
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.files import read_regular, reason_of
from primesvt_deploy.errors import DeployError, SettingsError

__all__ = [
    "CONFIG_OPTIONS",
    "configurable_commands",
    "has_settings",
    "options_by_key",
    "read_settings",
]

CONFIG_OPTIONS = ("config", "show_config")
"""Options that read and show settings, and are none themselves."""
_NO_SETTINGS = {*CONFIG_OPTIONS, "as_json"}
_MOST_BYTES = 2**20
_LONGEST = 200
"""Most characters of a key, or of the parser's reason, that a message shows."""


def has_settings(command: click.Command) -> bool:
    """Whether a command has options that are worth a file: any besides `--json`."""
    return any(
        isinstance(option, click.Option) and option.name not in _NO_SETTINGS
        for option in command.params
    )


def configurable_commands(ctx: click.Context) -> dict[str, click.Command]:
    """The commands that a file of settings may have a section for, by name."""
    root = ctx.find_root().command
    commands = root.commands if isinstance(root, click.Group) else {str(root.name): root}
    return {name: command for name, command in commands.items() if has_settings(command)}


def options_by_key(command: click.Command) -> dict[str, tuple[click.Option, bool]]:
    """A command's options by key, each with whether the key turns it off, as `images` does."""
    found: dict[str, tuple[click.Option, bool]] = {}
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in CONFIG_OPTIONS:
            found[key_of(option)] = (option, False)
            if option.secondary_opts:
                found[max(option.secondary_opts, key=len).lstrip("-")] = (option, True)
    return found


def read_settings(path: Path, ctx: click.Context) -> dict[str, Any]:
    """Values that a file gives to options of a context's command, by their names in click.

    Its section has the command's name; keys above all sections are for every command that has such
    an option, and the section goes before them. Sections of other commands are checked too.

    Raises:
        SettingsError: no such file, no TOML, an unknown section or key, or a value of another type;
            says where.
    """
    try:
        # With the mark that some editors of Windows begin a file with.
        text = read_regular(path, most=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"--config: {path} is no UTF-8 text: save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config: cannot read {path}: {reason_of(error)}") from error
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no TOML: {_reason(error, text)}") from error
    return _File(path, text, ctx).settings(content)


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, tomllib.TOMLDecodeError):  # Python's limit of digits
        return "it has a number beyond 64 bits, of thousands of digits"
    repeated = repeated_key(text)
    if repeated is not None:
        number, key = repeated
        return f"line {number} has the key {_shown(key)} again: keep the one you mean"
    return on_one_line(str(error)[:_LONGEST])


def _shown(key: str) -> str:
    return on_one_line(key[:_LONGEST]) or "''"


class _File:
    """A file of settings, as it is checked for a command.

    Args:
        path: of the file.
        text: its content.
        ctx: the context of the command.
    """

    def __init__(self, path: Path, text: str, ctx: click.Context) -> None:
        self._path, self._text, self._ctx = path, text, ctx
        self._commands = configurable_commands(ctx)
        self._keys = {key for c in self._commands.values() for key in options_by_key(c)}

    def settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Values of all options that the file has, for the context's command."""
        sections = {k: v for k, v in content.items() if isinstance(v, dict)}
        common = {k: v for k, v in content.items() if k not in sections}
        self._refuse_values_of_sections(common)
        self._refuse_unknown(common, sections)
        name = str(self._ctx.command.name)
        found = {each: self._table(each, sections[each]) for each in sections}
        own = options_by_key(self._ctx.command)
        shared = self._values("", own, {k: v for k, v in common.items() if k in own})
        settings = {**shared, **found.get(name, {})}
        # A flag that is off is as if it were not given, and some commands ask whether it is.
        off = {
            o.name for o, _ in own.values() if is_plain_flag(o) and settings.get(o.name) is False
        }
        return {option: value for option, value in settings.items() if option not in off}

    def _refuse_values_of_sections(self, common: Mapping[str, Any]) -> None:
        for key, value in common.items():
            is_array = isinstance(value, list) and any(isinstance(one, dict) for one in value)
            if key in self._commands and (is_array or key not in self._keys):
                found = f"found [[{key}]]" if is_array else f"found {in_words(value)}"
                raise SettingsError(
                    f"{self._place('', key)} {key} is a section: {found}, write [{key}] above its "
                    "keys"
                )

    def _refuse_unknown(self, common: Iterable[str], sections: Iterable[str]) -> None:
        for name in sections:
            if name not in self._commands:
                known = ", ".join(self._commands)
                ask = nearest(name, self._commands) or f"expected one of {known}"
                raise SettingsError(
                    f"{self._place('', name)} there is no section [{_shown(name)}]: {ask}"
                )
        for key in common:
            if key not in self._keys:
                ask = nearest(key, self._keys) or "see --help of the commands for their options"
                raise SettingsError(
                    f"{self._place('', key)} no command has an option {_shown(key)}: {ask}"
                )

    def _table(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        options = options_by_key(self._commands[name])
        for key in content:
            if key not in options:
                ask = nearest(key, options) or f"`primesvt-deploy {name} --help` lists its options"
                raise SettingsError(
                    f"{self._place(name, key)} {name} has no option {_shown(key)}: {ask}"
                )
        return self._values(name, options, content)

    def _values(
        self,
        section: str,
        options: Mapping[str, tuple[click.Option, bool]],
        content: Mapping[str, Any],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        keys: dict[str | None, str] = {}
        for key, value in content.items():
            option, inverted = options[key]
            place = self._place(section, key)
            if option.name in keys:
                raise SettingsError(
                    f"{place} {key} contradicts {keys[option.name]}: leave one of them out"
                )
            keys[option.name] = key
            converted = self._converted(place, key, option, value)
            found[str(option.name)] = not converted if inverted else converted
        return found

    def _converted(self, place: str, key: str, option: click.Option, value: object) -> Any:
        try:
            converted = from_toml(option, value, self._path.parent.resolve())
            option.type_cast_value(self._ctx, converted)
        except ValueError as error:
            raise SettingsError(f"{place} {key}: {error}") from error
        except click.BadParameter as error:
            raise SettingsError(f"{place} {wrong_value(key, option, value, error)}") from error
        except DeployError as error:
            raise SettingsError(f"{place} {error}") from error
        return converted

    def _place(self, section: str, key: str) -> str:
        """The file, and the line where a key or section stands, to begin a message with."""
        if len(key) > _LONGEST:
            return f"{self._path}:"
        number = line_of(self._text, section, key)
        return f"{self._path}:" if number is None else f"{self._path}, line {number}:"
