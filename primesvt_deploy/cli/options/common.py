"""Options of nearly every command, and the reading of numbers in options."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.cli.options.completers import complete_bundles, complete_names
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import MOST_THREADS

__all__ = [
    "USER_PATH",
    "any_machine_option",
    "bundle_argument",
    "check_threads",
    "json_option",
    "note_threads",
    "numbers",
    "profile_option",
    "require_trusted",
    "runtime_option",
    "set_threads",
    "threads_option",
    "trust_option",
    "whole_numbers",
    "with_options",
]

_MOST_PATH = 4095
_MOST_NAME = 255


class _UserPath(click.Path):
    """A path that a file may have, and that is shown on one line."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; raises SettingsError, as its message is one line and click's is four."""
        name = param.opts[0] if param is not None else "path"
        if value == "":  # pathlib takes it as the current directory
            raise SettingsError(f"{name} is empty: expected a path")
        path = super().convert(value, param, ctx)
        text = os.fsdecode(path)
        control = next((c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None)
        if control is not None:
            raise SettingsError(
                f"{name}: found the character {control!a} in a path, expected none that breaks a "
                "line or controls a terminal: rename the file"
            )
        parts = [len(os.fsencode(part)) for part in Path(text).parts]
        if max(parts, default=0) > _MOST_NAME or len(os.fsencode(text)) > _MOST_PATH:
            raise SettingsError(
                f"{name}: found a path of {len(text)} characters ({text[:40]}...), expected at "
                f"most {_MOST_PATH} bytes, and {_MOST_NAME} between two slashes: shorten it"
            )
        return path


USER_PATH = _UserPath()

bundle_argument = click.argument("bundle", type=USER_PATH, shell_complete=complete_bundles)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
threads_option = click.option(
    "--threads", type=int, default=0, show_default=True, help="CPU threads; 0: automatic."
)
any_machine_option = click.option(
    "--any-machine", is_flag=True, help="Compare results of different machines all the same."
)
profile_option = click.option(
    "--profile",
    metavar="NAME",
    shell_complete=complete_names("latency", "low-memory"),
    help="Session: latency or low-memory.  [default: the bundle's]",
)
trust_option = click.option(
    "--trust",
    type=USER_PATH,
    metavar="KEY",
    help="Public key: refuse what its owner has not signed (build --sign).",
)
runtime_option = click.option(
    "--runtime",
    metavar="NAME",
    shell_complete=complete_names("onnx", "native"),
    help="onnx or native.  [default: onnx, if the bundle has it]",
)


def with_options(options: tuple[Callable[[Any], Any], ...], command: Any) -> Any:
    """Give a command options, which its help lists in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def require_trusted(bundles: Iterable[Path], key: Path | None) -> None:
    """Refuse bundles that were not signed with a key, if one is given, before they are read.

    Raises:
        DeployError: one is not signed with it, or was altered since; or there is no such key.
    """
    if key is not None:
        from primesvt_deploy.bundle.signature import check_signature

        for bundle in bundles:
            check_signature(bundle, key)


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises:
        SettingsError: the text of the option `flag` is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{flag} is {text!r}: expected numbers with commas between") from error


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers with commas between.

    Raises:
        SettingsError: the text of the option `flag` is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(
            f"{flag} is {text!r}: expected whole numbers with commas between"
        ) from error


def note_threads(threads: object) -> None:
    """Tell of more threads than there are cores: they wait for one another.

    Args:
        threads: value of a command's `--threads`; anything but a number says nothing.
    """
    if not isinstance(threads, int) or not 0 < threads <= MOST_THREADS:
        return
    from primesvt_deploy.edge.bench.machine import usable_cores  # `--help` needs none of it

    cores = usable_cores()
    if threads > cores:
        click.echo(
            f"note: --threads {threads}: found {cores} CPU core{'s' if cores > 1 else ''} that "
            "this process may use; more threads than that make it slower, not faster",
            err=True,
        )


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has.

    Raises:
        SettingsError: less than 0, or more than `MOST_THREADS`.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise SettingsError(
            f"threads are {threads}: expected 0 (automatic) to {MOST_THREADS}; change --threads"
        )


def set_threads(threads: int) -> None:
    """Limit torch's threads; 0 leaves its own choice.

    Raises:
        SettingsError: see `check_threads`.
    """
    check_threads(threads)
    if threads:
        import torch

        torch.set_num_threads(threads)
