"""Options of nearly every command, and the reading of numbers in options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from primesvt_deploy.errors import SettingsError

__all__ = [
    "any_machine_option",
    "bundle_argument",
    "json_option",
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

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
threads_option = click.option(
    "--threads", type=int, default=0, show_default=True, help="CPU threads; 0: automatic."
)
any_machine_option = click.option(
    "--any-machine", is_flag=True, help="Compare results of different machines all the same."
)
profile_option = click.option(
    "--profile", metavar="NAME", help="Session: latency or low-memory.  [default: the bundle's]"
)
trust_option = click.option(
    "--trust",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Public key: refuse what its owner has not signed (build --sign).",
)
runtime_option = click.option(
    "--runtime", metavar="NAME", help="onnx or native.  [default: onnx, if the bundle has it]"
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


def set_threads(threads: int) -> None:
    """Limit torch's threads; 0 leaves its own choice.

    Raises:
        SettingsError: less than 0.
    """
    if threads < 0:
        raise SettingsError(f"threads are {threads}: expected 0 (automatic) or more")
    if threads:
        import torch

        torch.set_num_threads(threads)
