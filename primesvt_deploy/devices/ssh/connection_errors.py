"""Explain in one line why a connection failed, and what to do about it."""

from __future__ import annotations

import errno
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from primesvt_deploy.devices.ssh.ssh_config import Route

__all__ = ["ConnectionAttempt", "explain_failure"]


@dataclass
class ConnectionAttempt:
    """An attempt to connect, and what the server asked for in its course.

    Attributes:
        route: how the host is reached.
        vouched: fingerprint that the user vouches for, without `=` at its end.
        key: the server's key, where the known hosts have none.
        methods: login methods that the server offered and nothing answered.
    """

    route: Route
    vouched: str | None
    key: asyncssh.SSHKey | None = None
    methods: set[str] = field(default_factory=set)


async def explain_failure(attempt: ConnectionAttempt, error: Exception) -> str:
    """Explain an error of `asyncssh.connect` in one line, with what to do."""
    route = attempt.route
    where = f"{route.destination} ({route.host} port {route.port})"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key(attempt, error)
    if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
        return await _permission(attempt)
    if isinstance(error, socket.gaierror):
        return (
            f"{route.destination}: no host is called {route.host}; check the name, or give its "
            "address"
        )
    if isinstance(error, TimeoutError):
        return (
            f"{where}: no answer in {route.connect_s:g} s; is it switched on and in this network?"
        )
    if _refused(error):
        return f"{where}: connection refused; is sshd running there, at that port (-p)?"
    if isinstance(error, OSError):
        return f"{where}: {error.strerror or error}; is it switched on and in this network?"
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return f"{where}: no way of encryption or host key in common ({error}); renew its sshd"
    if isinstance(error, asyncssh.ConnectionLost | asyncssh.ProtocolError):
        return f"{where}: it hung up before the login ({_line(error)}); is that an sshd?"
    return f"{where}: {_line(error)}; does `ssh {route.destination}` work?"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refused(error: Exception) -> bool:
    """Whether every address refused the connection; a jump host says so in words."""
    if isinstance(error, asyncssh.ChannelOpenError):
        return "refused" in str(error).lower()
    if not isinstance(error, OSError):
        return False
    # asyncio joins the errors of several addresses into one without a number.
    return error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(error)


def _host_key(attempt: ConnectionAttempt, error: asyncssh.HostKeyNotVerifiable) -> str:
    route, key = attempt.route, attempt.key
    name = route.destination
    if key is None:  # revoked, or a certificate of an authority that is not known
        return f"{name}: its host key is refused ({_line(error)}); see its line in known_hosts"
    found = f"{key.get_algorithm()} {key.get_fingerprint()}"
    file = f"ssh_host_{_kind(key)}_key.pub"
    check = f"`ssh-keygen -lf /etc/ssh/{file}`"
    if attempt.vouched:
        return (
            f"{name}: its host key is {found}, not {attempt.vouched} as --accept-host-key says; "
            f"compare it with what {check} says on the device"
        )
    known = route.known_keys
    if known.file is not None:
        remove = f"ssh-keygen -f {shlex.quote(str(known.file))} -R {shlex.quote(known.name)}"
        return (
            f"{name}: its host key has CHANGED: it is {found}, {known.file} knows another; "
            f"somebody may be in between. If the device was set up anew: {remove}"
        )
    return (
        f"{name}: its host key is not known: {found}; if {check} says the same on the device, "
        f"connect once by ssh, or pass --accept-host-key {key.get_fingerprint()}"
    )


def _kind(key: asyncssh.SSHKey) -> str:
    for kind in ("ed25519", "ecdsa"):
        if kind in key.get_algorithm():
            return kind
    return "rsa"


async def _permission(attempt: ConnectionAttempt) -> str:
    route = attempt.route
    locked = [path for path in route.identities if _encrypted(path)]
    tried = [str(path) for path in route.identities if path not in locked]
    held = await _agent_keys(route)
    tried += [f"{held} of the agent"] if held else []
    said = f"permission denied for {route.login}: tried {', '.join(tried) or 'no key'}"
    if "password" in attempt.methods:
        said += ", and no password is asked for here"
    if locked:
        return f"{said}; {locked[0]} is encrypted: ssh-add {shlex.quote(str(locked[0]))} first"
    agent = "" if held else " or ssh-add one (no agent holds any),"
    return f"{said}; name a key by -i,{agent} or put yours there: ssh-copy-id {route.login}"


def _encrypted(path: Path) -> bool:
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyEncryptionError:
        return True
    except asyncssh.KeyImportError as error:
        return "assphrase" in str(error)
    except OSError:
        return False
    return False


async def _agent_keys(route: Route) -> int:
    """Number of keys that the agent holds."""
    if route.agent is None:
        return 0
    try:
        agent = await asyncssh.connect_agent(route.agent)
    except (OSError, asyncssh.Error):
        return 0
    try:
        return len(await agent.get_keys())
    except ValueError:
        return 0
    finally:
        agent.close()
