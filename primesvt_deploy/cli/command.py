"""Classes of the commands: options under headings and from a file, mistakes on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.cli.config.read import CONFIG_OPTIONS, has_settings, read_settings
from primesvt_deploy.cli.here import NO_DIRECTORY, has_working_directory
from primesvt_deploy.cli.mistakes import (
    bad_value,
    extra_arguments,
    missing_arguments,
    no_such_command,
    refuse_no_numbers,
    refuse_repeated,
)
from primesvt_deploy.cli.options.common import USER_PATH, note_threads
from primesvt_deploy.cli.sections import (
    FIRST_COMMANDS,
    commands_under_headings,
    options_under_headings,
)
from primesvt_deploy.errors import OutputError

__all__ = ["Command", "Commands", "print_schema"]

_SHOWN = "primesvt_deploy.show_config"
"""Whether the settings of this run are shown instead of used, in the context's `meta`."""
_ANYWHERE = ("doctor", "completion")
"""Commands that need no working directory."""


class Command(click.Command):
    """A command with `--config` and `--show-config`, if it has settings at all."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        if has_settings(self):
            self.params += _config_options()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters; without arguments where settings are shown, which need none."""
        found = super().get_params(ctx)
        if _SHOWN in ctx.meta:
            return [parameter for parameter in found if not isinstance(parameter, click.Argument)]
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; what click would let pass is refused, and its refusals are said on one line."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise
        asking = self.get_help_option(ctx)
        if asking is None or asking.name not in given:
            refuse_repeated(order, ctx)
        if CONFIG_OPTIONS[1] in given:
            ctx.meta[_SHOWN] = True
        ctx.allow_extra_args = True  # and refused below, in other words than click's
        try:
            extra = super().parse_args(ctx, args)
        except click.MissingParameter as error:
            raise missing_arguments(ctx, error) from error
        except click.BadParameter as error:
            raise bad_value(ctx, error, given) from error
        refuse_no_numbers(ctx)
        if extra and _SHOWN not in ctx.meta:
            raise extra_arguments(ctx, extra)
        return extra

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or show its settings."""
        if _SHOWN not in ctx.meta:
            if self.name not in _ANYWHERE and not has_working_directory():
                raise OutputError(NO_DIRECTORY)  # torch ends the process as it loads
            note_threads(ctx.params.get("threads"))
            return super().invoke(ctx)
        from primesvt_deploy.cli.config.show import settings_in_toml

        click.echo(settings_in_toml(ctx))
        return 0

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        options = [p for p in self.get_params(ctx) if p.get_help_record(ctx) is not None]
        shown = [option for option in options if isinstance(option, click.Option)]
        for heading, group in options_under_headings(self.name, shown).items():
            with formatter.section(heading):
                formatter.write_dl([r for o in group if (r := o.get_help_record(ctx)) is not None])


class Commands(click.Group):
    """The commands under headings, with the nearest name for a wrong one."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text, and what to type first."""
        super().format_help_text(ctx, formatter)
        with formatter.section("The first time"):
            formatter.write_dl(list(FIRST_COMMANDS), col_max=40)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        commands = {name: self.commands[name] for name in self.list_commands(ctx)}
        shown = [name for name, command in commands.items() if not command.hidden]
        width = max(map(len, shown), default=0)
        limit = formatter.width - 6 - width
        for heading, names in commands_under_headings(shown).items():
            rows = [(f"{name:{width}}", commands[name].get_short_help_str(limit)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise no_such_command(ctx, args[0])
        return super().resolve_command(ctx, args)


def print_schema(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the JSON schema of files of settings, and end, if that was asked for."""
    if not asked or ctx.resilient_parsing:
        return
    from primesvt_deploy.cli.config.show import config_schema

    click.echo(json.dumps(config_schema(ctx), indent=1))
    ctx.exit()


def _config_options() -> list[click.Parameter]:
    config, show = CONFIG_OPTIONS
    return [
        click.Option(
            ["--config", config],
            type=USER_PATH,
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_read,
            help="TOML file of settings: a section of this command's name, whose keys are options "
            "without their dashes. Options that are given here win.",
        ),
        click.Option(
            ["--show-config", show],
            is_flag=True,
            expose_value=False,
            help="Print the settings as such a file, and end.",
        ),
    ]


def _read(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None and not ctx.resilient_parsing:
        ctx.meta[f"primesvt_deploy.{parameter.name}"] = path  # see `options.repeat`
        ctx.default_map = read_settings(path, ctx)
