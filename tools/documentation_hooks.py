"""What mkdocs does not do by itself; `mkdocs.yml` names this file.

Pages under `docs/` are Markdown that reads well without any of this. In the built site

- `<!-- commands -->` becomes the command reference, from the commands themselves;
- `<!-- api: NAMES -->` becomes the documentation of these names, from their docstrings;
- a picture outside `docs/` is copied, and a link to another file outside becomes plain text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.sections import commands_under_headings, options_under_headings

ROOT = Path(__file__).resolve().parent.parent
_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")
_PICTURES = (".svg", ".png")
_API = re.compile(r"<!-- api: ([\w\s.]+?) -->")
COMMANDS = "<!-- commands -->"


def on_files(files: Any, *, config: Mapping[str, Any]) -> Any:
    """Add the pictures that pages show from outside `docs/`."""
    from mkdocs.structure.files import File

    for page in sorted(Path(config["docs_dir"]).glob("*.md")):
        for _, _, target in _OUTSIDE.findall(page.read_text(encoding="utf-8")):
            name = Path(target).name
            if name.endswith(_PICTURES) and files.get_file_from_path(f"images/{name}") is None:
                source = str((page.parent / target).resolve())
                files.append(File.generated(config, f"images/{name}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts, and without links that lead out of the site."""
    markdown = _OUTSIDE.sub(_inside, markdown)
    markdown = _API.sub(
        lambda found: "\n\n".join(f"::: primesvt_deploy.{name}" for name in found[1].split()),
        markdown,
    )
    return markdown.replace(COMMANDS, command_reference()) if COMMANDS in markdown else markdown


def _inside(link: re.Match[str]) -> str:
    picture, text, target = link.groups()
    if target.endswith(_PICTURES):
        return f"{picture}[{text}](images/{Path(target).name})"
    return str(text)


def command_reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    context = cli.make_context("primesvt-deploy", [], resilient_parsing=True)
    return "\n\n".join(_commands(cli, context))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for names in commands_under_headings(group.list_commands(context)).values():
        for name in names:
            command = group.commands[name]
            if not command.hidden:
                yield from _command(command, click.Context(command, info_name=name, parent=context))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}"
    yield _plain(command.help or "")
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    for heading, group in options_under_headings(command.name, options).items():
        records = (record for p in group if (record := p.get_help_record(context)))
        rows = [f"| `{names}` | {_cell(text)} |" for names, text in records]
        yield "\n".join([f"| {heading} | |", "|---|---|", *rows])


def _plain(text: str) -> str:
    """Help text as paragraphs, without the mark that click gives preformatted text."""
    return re.sub(r"^\s*\x08\s*$", "", inspect.cleandoc(text), flags=re.M).strip()


def _cell(text: str) -> str:
    """Text for a table's cell, in which nothing is markup."""
    return re.sub(r"([|*_<>\[\]])", r"\\\1", " ".join(text.split()))
