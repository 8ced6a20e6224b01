"""Options of a command that can measure on another machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import USER_PATH, with_options
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import SettingsError

__all__ = ["host_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--host", "destination", metavar="USER@HOST", help="Work there, over SSH."),
    click.option("-p", "--port", "host_port", type=int, help="Of its sshd.  [default: ssh_config]"),
    click.option(
        "-i",
        "--identity",
        "host_identity",
        type=USER_PATH,
        help="Private key.  [default: ssh_config, the usual ones, the agent's]",
    ),
    click.option(
        "-F",
        "--ssh-config",
        "host_config",
        type=USER_PATH,
        help="Instead of the user's and the system's.",
    ),
    click.option(
        "--accept-host-key",
        "host_key",
        metavar="SHA256:...",
        help="Fingerprint the host's key must have, where known_hosts has none.",
    ),
    click.option(
        "--bootstrap",
        "host_bootstrap",
        is_flag=True,
        default=None,
        help="Make a virtual environment with what is needed there, once.",
    ),
    click.option(
        "--cc",
        "host_compiler",
        metavar="COMPILER",
        help="Compile the native runtime here, such as by aarch64-linux-gnu-gcc.  [default: there]",
    ),
    click.option("--remote-python", "host_python", help="Its interpreter.  [default: python3]"),
    click.option(
        "--remote-directory",
        "host_directory",
        help="Where a temporary directory is made there.  [default: home]",
    ),
    click.option(
        "--patience",
        "host_patience",
        type=float,
        help="Seconds a lost connection may take to come back.  [default: 120]",
    ),
)
_FIELDS = {
    "host_port": ("port", "--port"),
    "host_identity": ("identity", "--identity"),
    "host_config": ("config", "--ssh-config"),
    "host_key": ("host_key", "--accept-host-key"),
    "host_bootstrap": ("bootstrap", "--bootstrap"),
    "host_compiler": ("compiler", "--cc"),
    "host_python": ("python", "--remote-python"),
    "host_directory": ("directory", "--remote-directory"),
    "host_patience": ("patience_s", "--patience"),
}
"""Field of the settings, and flag, by the option's name in click."""


def host_options(command: _F) -> _F:
    """Give a command the options of a host; it receives `host`, a HostSettings or None.

    Raises:
        SettingsError: an option of the host without `--host`, or a value out of range.
    """

    @wraps(command)
    def wrapped(*, destination: str | None, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _FIELDS}
        chosen = {name: value for name, value in given.items() if value is not None}
        if destination is None:
            if chosen:
                option = _FIELDS[next(iter(chosen))][1]
                raise SettingsError(f"{option} is for another machine: name it by --host")
            return command(host=None, **options)
        fields = {_FIELDS[name][0]: value for name, value in chosen.items()}
        return command(host=HostSettings(destination, **fields), **options)

    return cast(_F, with_options(_OPTIONS, wrapped))
