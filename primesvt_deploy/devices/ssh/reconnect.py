"""A connection to a host that may be lost and comes back, while the job there goes on."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncssh

from primesvt_deploy.devices.ssh.connection import LOST, Connection, connect
from primesvt_deploy.devices.ssh.host_directory import HostDirectory
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

__all__ = ["ReconnectingConnection"]

_T = TypeVar("_T")
_HEARTBEAT_S = 2.0
_LONGEST_PAUSE_S = 10.0
_GOODBYE_S = 2.0
"""Seconds that the follower gets to end by itself."""
_FOLLOW = "primesvt_deploy.edge.bench.follow"
# Lines of the follower; others are of the host's own making.
_PROGRESS = re.compile(r"p ([0-9]{1,15}) (.*)")
_END = re.compile(r"e ([0-9]{1,6}) (-?[0-9]{1,6})")


class ReconnectingConnection:
    """A connection with the follower at its other end; both are made anew when they are lost.

    The follower (`edge.bench.follow`) passes the job's progress on, and tells the guard there that
    this machine is still connected.

    Args:
        settings: the host.
        connection: the connection to begin with.
        directory: the directory on the host, with the measuring code in it.
        tell: receives a line for the user.
    """

    def __init__(
        self,
        settings: HostSettings,
        connection: Connection,
        directory: HostDirectory,
        tell: Callable[[str], None],
    ) -> None:
        self._settings, self._connection, self._directory = settings, connection, directory
        self._tell = tell
        self._follower: asyncssh.SSHClientProcess[str] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._offset, self._commands = 0, 0

    async def persist(self, action: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Run an action that may be repeated, over as many connections as it takes.

        Raises:
            RemoteError: the connection did not come back, or `action` raises it.
        """
        while True:
            try:
                if self._follower is None:
                    await self._follow()
                return await action(self._connection)
            except LOST as error:
                if isinstance(error, asyncssh.ChannelOpenError) and not self._lost():
                    raise RemoteError(
                        f"{self._settings.destination}: its sshd opens no further session "
                        f"({error}); MaxSessions in its sshd_config must be 3 or more"
                    ) from error
                await self._reconnect()

    async def run(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command in the directory, detached; its output is passed on line by line.

        Returns:
            Its exit status, negative for a signal, and the last line of its standard error, or
            the last one that starts with `error: `.

        Raises:
            RemoteError: the connection did not come back, or the guard there is gone.
        """
        number = self._commands
        self._commands += 1

        async def start_and_wait(connection: Connection) -> int:
            # Written a second time it changes nothing: the guard runs each number once.
            await self._directory.write(connection, f"command-{number}.json", {"argv": list(argv)})
            return await self._wait(number)

        code = await self.persist(start_and_wait)
        log = await self.read(f"error-{number}.log")
        lines = [line.strip() for line in (log or "").splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error: ")]
        return code, (errors or lines or [""])[-1]

    async def read(self, name: str) -> str | None:
        """Text of a file in the directory, or None where there is no such file."""
        return await self.persist(lambda connection: self._directory.read(connection, name))

    async def close(self) -> bool:
        """End all that runs there, remove the directory, close the connection.

        Returns:
            Whether it is done; otherwise the guard there does it once its patience is over.
        """
        follower = self._follower
        await self._unfollow()
        try:
            if follower is not None and not self._lost():
                follower.stdin.write_eof()
                with contextlib.suppress(*LOST, TimeoutError):
                    await asyncio.wait_for(follower.wait_closed(), _GOODBYE_S)
            return await self._remove()
        finally:
            with contextlib.suppress(*LOST, OSError):
                await self._connection.close()

    async def _remove(self) -> bool:
        for again in (False, True):
            try:
                if again:
                    self._connection = await connect(self._settings)
                await self._directory.remove(self._connection)
                return True
            except (*LOST, RemoteError):
                continue
        return False

    async def _follow(self) -> None:
        follow = ("-m", _FOLLOW, ".", str(self._offset))
        self._follower = await self._connection.ssh.create_process(
            self._directory.command(self._settings.python, *follow),
            encoding="utf-8",
            errors="replace",
        )
        self._heartbeat = asyncio.create_task(_send_heartbeats(self._follower))

    async def _unfollow(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heartbeat
        self._follower = self._heartbeat = None

    async def _wait(self, number: int) -> int:
        """Pass progress on until a command has ended; its exit status."""
        follower = self._follower
        assert follower is not None
        async for line in follower.stdout:
            said = line.rstrip("\n")
            if found := _PROGRESS.fullmatch(said):
                self._offset = int(found[1])
                self._tell(found[2])
            elif (found := _END.fullmatch(said)) and int(found[1]) == number:
                return int(found[2])
            elif said == "gone":
                raise RemoteError(
                    f"{self._settings.destination}: the job there is gone; was the device "
                    "restarted, or does it end processes at logout (loginctl enable-linger)?"
                )
        if not self._lost():
            done = await follower.wait()
            if done.exit_status:
                raise RemoteError(
                    f"{self._settings.destination}: the job cannot be followed: "
                    f"{str(done.stderr).strip().splitlines()[-1:] or done.exit_status}"
                )
        raise asyncssh.ConnectionLost("the follower ended")

    def _lost(self) -> bool:
        return self._connection.ssh.is_closed()

    async def _reconnect(self) -> None:
        """Connect again, as long as the guard there keeps the job running."""
        patience_s = self._settings.patience_s
        deadline = time.monotonic() + patience_s
        self._tell("connection lost, trying again")
        await self._unfollow()
        with contextlib.suppress(*LOST, OSError):
            await self._connection.close()
        pause_s, last = 0.5, "it was lost again"
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                self._connection = await asyncio.wait_for(connect(self._settings), left_s)
                await self._follow()
            except (*LOST, RemoteError, TimeoutError) as error:
                last = str(error) or last
                await asyncio.sleep(min(pause_s, max(deadline - time.monotonic(), 0)))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._tell("back; the job went on")
                return
        raise RemoteError(
            f"{self._settings.destination}: the connection was lost and did not come back in "
            f"{patience_s:g} s ({last}); what ran there ends by itself and is removed within "
            f"{patience_s:g} s; run it again"
        )


async def _send_heartbeats(follower: asyncssh.SSHClientProcess[str]) -> None:
    """Tell the follower that this machine is connected, until the connection is gone."""
    with contextlib.suppress(*LOST, OSError):
        while True:
            follower.stdin.write(".")
            await asyncio.sleep(_HEARTBEAT_S)
