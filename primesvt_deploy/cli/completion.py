"""`primesvt-deploy completion`: the script by which a shell completes commands and values."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from primesvt_deploy.cli.command import Command
from primesvt_deploy.errors import SettingsError

__all__ = ["PROGRAM", "completion", "prepare_completion"]

PROGRAM = "primesvt-deploy"
_VARIABLE = "_PRIMESVT_DEPLOY_COMPLETE"
"""The environment variable by which a shell's script asks click; made of the program's name."""
_INSTALL = {
    "bash": (
        "mkdir -p ~/.local/share/bash-completion/completions",
        "primesvt-deploy completion bash > "
        "~/.local/share/bash-completion/completions/primesvt-deploy",
        "or, without the package bash-completion, write into ~/.bashrc: "
        'eval "$(primesvt-deploy completion bash)"',
    ),
    "zsh": (
        'write into ~/.zshrc, after compinit: eval "$(primesvt-deploy completion zsh)"',
        "or, for a directory of $fpath: primesvt-deploy completion zsh > _primesvt-deploy",
    ),
    "fish": ("primesvt-deploy completion fish > ~/.config/fish/completions/primesvt-deploy.fish",),
}
"""How to install the script, by shell."""


class _Bash(BashComplete):
    """Completion in bash, which splits `--model=x` into three words that click takes for three."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        words, incomplete = super().get_completion_args()
        pairs = zip(["", *words], words, strict=False)
        joined = [w for before, w in pairs if not (w == "=" and before.startswith("--"))]
        return joined, incomplete


class _Zsh(ZshComplete):
    """Completion in zsh, which replaces the whole word `--model=x` by what is offered."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Words that are offered for the one at the cursor."""
        return _whole_words(super().get_completions(args, incomplete), incomplete)


class _Fish(FishComplete):
    """Completion in fish, likewise; click's script cuts what is offered at its first comma."""

    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Words that are offered for the one at the cursor."""
        return _whole_words(super().get_completions(args, incomplete), incomplete)


def _whole_words(found: list[CompletionItem], incomplete: str) -> list[CompletionItem]:
    """Values that are offered after `--option=`, with the option before them."""
    option, equals, _ = incomplete.partition("=")
    for item in found:
        if equals and option.startswith("--") and item.type == "plain":
            item.value = f"{option}={item.value}"
    return found


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def prepare_completion() -> None:
    """Complete values after `--option=` in every shell, if a shell asks for completions now."""
    if _VARIABLE in os.environ:
        for shell in _SHELLS.values():
            add_completion_class(shell)


@click.command(cls=Command, short_help="Print the script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(list(_INSTALL)), required=False)
def completion(shell: str | None) -> int:
    """Print the script by which bash, zsh or fish completes commands, options and values.

    Without a name it is for the shell that $SHELL names. The script's first lines say how to
    install it; `eval "$(primesvt-deploy completion bash)"` tries it.
    """
    chosen = shell or _own_shell()
    click.echo(script_for(chosen, click.get_current_context().find_root().command))
    return 0


def script_for(shell: str, cli: click.Command) -> str:
    """The script for a shell, with a comment that says how to install it."""
    first, *rest = _SHELLS[shell](cli, {}, PROGRAM, _VARIABLE).source().splitlines()
    comments = ["# To install:", *(f"#   {line}" for line in _INSTALL[shell])]
    # zsh reads a file of $fpath as a completion only where its first line says so.
    is_marked = first.startswith("#compdef")
    return "\n".join([first, *comments, *rest] if is_marked else [*comments, first, *rest])


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in _INSTALL:
        found = f"$SHELL is {name}" if name else "$SHELL is not set"
        raise SettingsError(f"{found}: expected a shell after completion: {', '.join(_INSTALL)}")
    return name
