"""Route to a host from ssh_config, read by asyncssh, with the gaps to OpenSSH closed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncssh

from primesvt_deploy.devices.ssh.known_hosts import KnownKeys, known_keys
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

__all__ = ["Route", "resolve_route"]

_CONFIG_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")
_CONNECT_S = 20.0


@dataclass(frozen=True)
class Route:
    """Address, keys and jump hosts by which one host is reached.

    Attributes:
        destination: the host's name or alias, without a user.
        host: the name or address that is connected to.
        port: port of its sshd.
        user: user who logs in.
        config: the ssh_config files that were read.
        identities: private keys to offer; all of these files exist.
        agent: the agent's socket; None: use no agent.
        agent_keys: public keys the agent may be asked for; None: any it has.
        jumps: hosts to go through, in order.
        known_keys: the host's keys in the known_hosts files.
        connect_s: seconds in which a connection must be established.
    """

    destination: str
    host: str
    port: int
    user: str
    config: tuple[Path, ...]
    identities: tuple[Path, ...]
    agent: str | None
    agent_keys: tuple[Path, ...] | None
    jumps: tuple[str, ...]
    known_keys: KnownKeys
    connect_s: float

    @property
    def login(self) -> str:
        """User and host, as messages name them."""
        return f"{self.user}@{self.destination}"


def resolve_route(
    destination: str, *, user: str | None, port: int | None, settings: HostSettings
) -> Route:
    """Route to a host, before anything is sent to it.

    Args:
        destination: the host's name or alias.
        user: user who logs in; None: as ssh_config says.
        port: port of its sshd; None: as ssh_config says.
        settings: files to read. `identity` is offered to the settings' own host alone, as ssh does.

    Raises:
        RemoteError: an ssh_config or a key that cannot be read.
    """
    files = _config_files(settings.config)
    options = _read_config(destination, user, port, files)
    own = settings.identity if destination == settings.host else None
    identities = _identities(own, options)
    agent, agent_keys = _agent(options, identities)
    user_files = options.config.get("UserKnownHostsFile")
    if settings.known_hosts is not None:
        user_files = [str(settings.known_hosts)]
    jumps = cast("str | None", options.config.get("ProxyJump"))
    return Route(
        destination=destination,
        host=options.host,
        port=options.port,
        user=options.username,
        config=files,
        identities=identities,
        agent=agent,
        agent_keys=agent_keys,
        jumps=tuple(hop.strip() for hop in jumps.split(",")) if jumps else (),
        known_keys=known_keys(
            options.host,
            options.port,
            alias=options.host_key_alias,
            user_files=cast("Sequence[str] | None", user_files),
            system_files=cast("Sequence[str] | None", options.config.get("GlobalKnownHostsFile")),
        ),
        connect_s=options.connect_timeout or _CONNECT_S,
    )


def _read_config(
    destination: str, user: str | None, port: int | None, files: tuple[Path, ...]
) -> asyncssh.SSHClientConnectionOptions:
    try:
        return asyncssh.SSHClientConnectionOptions(
            host=destination,
            username=() if user is None else user,
            port=() if port is None else port,
            config=files or None,
            known_hosts=None,
            client_keys=None,
            connect_timeout=(),
        )
    except (ValueError, OSError) as error:
        raise RemoteError(f"ssh_config cannot be read: {error}; correct it, or pass -F") from error


def _config_files(chosen: Path | None) -> tuple[Path, ...]:
    if chosen is None:
        usual = (Path(name).expanduser() for name in _CONFIG_FILES)
        return tuple(path for path in usual if path.is_file())
    if str(chosen) == "none":
        return ()
    if not chosen.is_file():
        raise RemoteError(f"{chosen}: there is no such ssh_config; check -F")
    return (chosen,)


def _identities(
    explicit: Path | None, options: asyncssh.SSHClientConnectionOptions
) -> tuple[Path, ...]:
    if explicit is not None:
        if not explicit.expanduser().is_file():
            raise RemoteError(f"{explicit}: there is no such private key; check -i")
        return (explicit.expanduser(),)
    names = cast("Sequence[str] | None", options.config.get("IdentityFile"))
    if names is None:
        names = [f"~/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]
    paths = (Path(name).expanduser() for name in names)
    return tuple(path for path in paths if path.is_file())


def _agent(
    options: asyncssh.SSHClientConnectionOptions, identities: tuple[Path, ...]
) -> tuple[str | None, tuple[Path, ...] | None]:
    """The agent's socket, and the public keys it may be asked for."""
    usual = os.environ.get("SSH_AUTH_SOCK")
    chosen = cast("str | None", options.config.get("IdentityAgent", usual))
    socket = usual if chosen == "SSH_AUTH_SOCK" else chosen
    if not socket:
        return None, None
    if not options.config.get("IdentitiesOnly"):
        return str(Path(socket).expanduser()), None
    public = (path if path.suffix == ".pub" else Path(f"{path}.pub") for path in identities)
    keys = tuple(path for path in public if path.is_file())
    return (str(Path(socket).expanduser()) if keys else None), keys
