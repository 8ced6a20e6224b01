"""A connection to a host, through others where ssh_config says so; who it is, is checked first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncssh

from primesvt_deploy.devices.ssh.connection_errors import Attempt, explain
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.devices.ssh.ssh_config import Route, look_up
from primesvt_deploy.errors import RemoteError

__all__ = ["LOST", "Answer", "Connection", "connect"]

LOST = (
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPEOFError,
    ConnectionError,
)
"""What is raised where a connection that stood is gone."""

_KEEPALIVE_S = 5
_MISSES = 3
_MOST_JUMPS = 8
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a command on the host came to.

    Attributes:
        code: its exit status; 128 + the signal where one ended it, as a shell says it.
        out: its output, without blanks around it.
        error: its last line of errors.
    """

    code: int
    out: str
    error: str


class Connection:
    """A connection that stands.

    Args:
        ssh: to the host itself.
        route: how it was reached.
        jumps: the connections it goes through, the first first.
    """

    def __init__(
        self, ssh: asyncssh.SSHClientConnection, route: Route, jumps: tuple[Connection, ...] = ()
    ) -> None:
        self.ssh, self.route, self._jumps = ssh, route, jumps

    async def call(self, command: str, *, send: str = "", timeout_s: float = _ANSWER_S) -> Answer:
        """Run a command of the host's shell to its end.

        Args:
            command: quoted already.
            send: its standard input.
            timeout_s: seconds it may take.

        Raises:
            RemoteError: it does not end.
            asyncssh.Error: one of `LOST`.
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
        return Answer(
            code=code if code >= 0 else 128 - code,
            out=str(done.stdout or "").strip(),
            error=lines[-1].strip() if lines else "",
        )

    async def close(self) -> None:
        """Close it at once, with what it goes through."""
        self.ssh.abort()
        await self.ssh.wait_closed()
        for jump in reversed(self._jumps):
            await jump.close()


class _Client(asyncssh.SSHClient):
    """Takes a host key that nothing knows only where it has the fingerprint vouched for."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Asked for keys that are not in the known hosts."""
        self._attempt.key = key
        return key.get_fingerprint() == self._attempt.vouched

    def public_key_auth_requested(self) -> None:
        """Asked for another key when all of them were refused."""
        self._attempt.methods.add("publickey")

    def password_auth_requested(self) -> None:
        """Asked for a password."""
        self._attempt.methods.add("password")

    def kbdint_auth_requested(self) -> None:
        """Asked whether the user would answer questions."""
        self._attempt.methods.add("password")


async def connect(settings: HostSettings) -> Connection:
    """Connect to a host, log in.

    Raises:
        RemoteError: one line: what was found, what to do.
    """
    return await _reach(
        settings.host, user=settings.user, port=settings.port, settings=settings, depth=0
    )


async def _reach(
    host: str, *, user: str | None, port: int | None, settings: HostSettings, depth: int
) -> Connection:
    if depth > _MOST_JUMPS:
        raise RemoteError(f"{host}: ProxyJump of ssh_config goes in circles; correct it")
    route = look_up(host, user=user, port=port, settings=settings)
    jumps: list[Connection] = []
    try:
        hops = (_hop(hop) for hop in route.jumps)
        # `Host *` with a ProxyJump means the jump host too; ssh takes it for everything but itself.
        for name, hop_user, hop_port in (hop for hop in hops if hop[0] != host):
            if not jumps:  # the first may have a ProxyJump of its own
                jumps.append(
                    await _reach(
                        name, user=hop_user, port=hop_port, settings=settings, depth=depth + 1
                    )
                )
            else:
                step = look_up(name, user=hop_user, port=hop_port, settings=settings)
                jumps.append(Connection(await _open(step, None, jumps[-1].ssh), step))
        vouched = settings.host_key.rstrip("=") if settings.host_key and depth == 0 else None
        ssh = await _open(route, vouched, jumps[-1].ssh if jumps else None)
    except BaseException:
        for jump in reversed(jumps):
            await jump.close()
        raise
    return Connection(ssh, route, tuple(jumps))


def _hop(text: str) -> tuple[str, str | None, int | None]:
    """Name, user and port of one step of a ProxyJump."""
    user, at, place = text.removeprefix("ssh://").rpartition("@")
    host, colon, port = place.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), user if at else None, int(port)
    return place.strip("[]"), user if at else None, None


async def _open(
    route: Route, vouched: str | None, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    """One connection, or one line on why there is none."""
    attempt = Attempt(route, vouched)
    known = route.known
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
        raise RemoteError(await explain(attempt, error)) from error
