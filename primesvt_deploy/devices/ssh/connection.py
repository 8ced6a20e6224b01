"""A connection to a host, through jump hosts where ssh_config says so; host keys are checked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncssh

from primesvt_deploy.devices.ssh.connection_errors import ConnectionAttempt, explain_failure
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.devices.ssh.ssh_config import Route, resolve_route
from primesvt_deploy.errors import RemoteError

__all__ = ["LOST", "CommandResult", "Connection", "connect"]

LOST = (
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPEOFError,
    ConnectionError,
)
"""Errors that say that an established connection is gone."""

_KEEPALIVE_S = 5
_MISSES = 3
_MOST_JUMPS = 8
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CommandResult:
    """Exit status and output of a command on the host.

    Attributes:
        code: its exit status; 128 + the signal where one ended it, as in a shell.
        out: its standard output, without blanks around it.
        error: the last line of its standard error.
    """

    code: int
    out: str
    error: str


class Connection:
    """An established connection to a host.

    Args:
        ssh: asyncssh's connection to the host itself.
        route: how the host was reached.
        jumps: the connections that it goes through, in order.
    """

    def __init__(
        self, ssh: asyncssh.SSHClientConnection, route: Route, jumps: tuple[Connection, ...] = ()
    ) -> None:
        self.ssh, self.route, self._jumps = ssh, route, jumps

    async def call(
        self, command: str, *, send: str = "", timeout_s: float = _TIMEOUT_S
    ) -> CommandResult:
        """Run a command of the host's shell to its end.

        Args:
            command: command line, quoted already.
            send: its standard input.
            timeout_s: seconds that it may take.

        Raises:
            RemoteError: it does not end in time.
            asyncssh.Error: one of `LOST`: the connection is gone.
        """
        try:
            done = await asyncio.wait_for(
                self.ssh.run(command, input=send, encoding="utf-8", errors="replace"), timeout_s
            )
        except TimeoutError:
            raise RemoteError(
                f"{self.route.login}: no answer in {timeout_s:g} s; is the device overloaded?"
            ) from None
        if done.returncode is None:
            raise asyncssh.ConnectionLost("the connection closed as a command ran")
        lines = str(done.stderr or "").strip().splitlines()
        code = done.returncode
        return CommandResult(
            code=code if code >= 0 else 128 - code,
            out=str(done.stdout or "").strip(),
            error=lines[-1].strip() if lines else "",
        )

    async def close(self) -> None:
        """Close it at once, and the jump hosts' connections with it."""
        self.ssh.abort()
        await self.ssh.wait_closed()
        for jump in reversed(self._jumps):
            await jump.close()


class _Client(asyncssh.SSHClient):
    """Accepts an unknown host key only where it has the fingerprint that the user vouches for."""

    def __init__(self, attempt: ConnectionAttempt) -> None:
        self._attempt = attempt

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Whether to accept a key that is not in the known hosts."""
        self._attempt.key = key
        return key.get_fingerprint() == self._attempt.vouched

    def public_key_auth_requested(self) -> None:
        """Offer no further key: all of them were refused."""
        self._attempt.methods.add("publickey")

    def password_auth_requested(self) -> None:
        """Offer no password."""
        self._attempt.methods.add("password")

    def kbdint_auth_requested(self) -> None:
        """Answer no questions."""
        self._attempt.methods.add("password")


async def connect(settings: HostSettings) -> Connection:
    """Connect to a host and log in.

    Raises:
        RemoteError: it cannot be reached, its key is not known, or nobody may log in; one line.
    """
    return await _reach(
        settings.host, user=settings.user, port=settings.port, settings=settings, depth=0
    )


async def _reach(
    host: str, *, user: str | None, port: int | None, settings: HostSettings, depth: int
) -> Connection:
    if depth > _MOST_JUMPS:
        raise RemoteError(f"{host}: ProxyJump of ssh_config goes in circles; correct it")
    route = resolve_route(host, user=user, port=port, settings=settings)
    jumps: list[Connection] = []
    try:
        hops = (_parse_jump(hop) for hop in route.jumps)
        # `Host *` with a ProxyJump means the jump host too; ssh takes it for everything but itself.
        for name, hop_user, hop_port in (hop for hop in hops if hop[0] != host):
            if not jumps:  # the first may have a ProxyJump of its own
                jumps.append(
                    await _reach(
                        name, user=hop_user, port=hop_port, settings=settings, depth=depth + 1
                    )
                )
            else:
                step = resolve_route(name, user=hop_user, port=hop_port, settings=settings)
                jumps.append(Connection(await _open(step, None, jumps[-1].ssh), step))
        vouched = settings.host_key.rstrip("=") if settings.host_key and depth == 0 else None
        ssh = await _open(route, vouched, jumps[-1].ssh if jumps else None)
    except BaseException:
        for jump in reversed(jumps):
            await jump.close()
        raise
    return Connection(ssh, route, tuple(jumps))


def _parse_jump(text: str) -> tuple[str, str | None, int | None]:
    """Name, user and port of one jump host of a ProxyJump."""
    user, at, place = text.removeprefix("ssh://").rpartition("@")
    host, colon, port = place.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), user if at else None, int(port)
    return place.strip("[]"), user if at else None, None


async def _open(
    route: Route, vouched: str | None, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    """Open one connection, of which a failure is explained in one line."""
    attempt = ConnectionAttempt(route, vouched)
    known = route.known_keys
    try:
        return await asyncssh.connect(
            route.destination,
            route.port,
            tunnel=tunnel,
            config=route.config or None,
            options=None,
            client_factory=lambda: _Client(attempt),
            username=route.user,
            known_hosts=(
                [] if vouched else list(known.keys),
                list(known.authorities),
                list(known.revoked),
            ),
            server_host_key_algs=known.algorithms,
            client_keys=[str(path) for path in route.identities],
            ignore_encrypted=True,
            agent_path=route.agent,
            agent_identities=(
                None if route.agent_keys is None else [str(path) for path in route.agent_keys]
            ),
            agent_forwarding=False,
            x11_forwarding=False,
            command=None,
            request_pty=False,
            connect_timeout=route.connect_s,
            login_timeout=route.connect_s,
            keepalive_interval=_KEEPALIVE_S,
            keepalive_count_max=_MISSES,
        )
    except (asyncssh.Error, OSError, ValueError) as error:
        raise RemoteError(await explain_failure(attempt, error)) from error
