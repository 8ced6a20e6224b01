"""The temporary directory on a host: made with its guard, filled over SFTP, removed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import cast

import asyncssh

from primesvt_deploy.devices.ssh.connection import Connection
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.devices.ssh.uploads import Upload, total_bytes
from primesvt_deploy.edge.bench import detached
from primesvt_deploy.edge.runtime.checked_json import fields, parse_json, text, whole
from primesvt_deploy.errors import RemoteError
from primesvt_deploy.measure.megabytes import millions

__all__ = ["HostDirectory", "check_python", "make_host_directory"]

_OLDEST_PYTHON = (3, 11)
_NOT_FOUND = 127
_SPARE_BYTES = 32_000_000
"""Bytes left free for results, profiles and caches."""
_MOST_BYTES = 64_000_000
"""Size of a file that is read from the host."""
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})+")
_MADE = fields(
    {"directory": text(r"/.+", most=4096, expected="an absolute path"), "free_bytes": whole()}
)
_PRINT_VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
_PRINT_FREE = "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free)"
# The guard ends what runs and removes the directory once `alive` is gone; rm is for its failing.
_REMOVE = (
    'rm -f "$1/alive"; i=0; while [ -e "$1" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; '
    'rm -rf "$1"'
)


async def check_python(connection: Connection, settings: HostSettings) -> str:
    """Refuse a host whose interpreter is missing or too old.

    Returns:
        The interpreter's version.

    Raises:
        RemoteError: there is none, or it is too old.
    """
    result = await connection.call(shlex.join([settings.python, "-c", _PRINT_VERSION]))
    where = connection.route.destination
    # What a shell's start-up files print comes before it.
    version = result.out.splitlines()[-1] if result.code == 0 and result.out else ""
    numbers = tuple(map(int, version.split("."))) if _VERSION.fullmatch(version) else ()
    if not numbers:
        reason = "" if result.code == _NOT_FOUND else f" ({result.error or result.out})"
        raise RemoteError(
            f"{where}: no {settings.python} there{reason}: sudo apt install python3, or name one "
            "by --remote-python"
        )
    if numbers < _OLDEST_PYTHON:
        raise RemoteError(
            f"{where}: {settings.python} is Python {version}, 3.11 or newer is needed; name "
            "another by --remote-python"
        )
    return version


class HostDirectory:
    """A temporary directory on a host, which a guard there watches over and removes.

    Args:
        path: its absolute path there.
        free_bytes: space that was free on its disk when it was made.
        settings: the host.
    """

    def __init__(self, path: str, *, free_bytes: int, settings: HostSettings) -> None:
        self.path, self.free_bytes, self._settings = path, free_bytes, settings

    def command(self, python: str, *arguments: str) -> str:
        """A command line that runs an interpreter in the directory."""
        return f"cd {shlex.quote(self.path)} && exec {shlex.join([python, *arguments])}"

    def refuse_if_small(self, connection: Connection, uploads: list[Upload]) -> None:
        """Refuse files that its disk cannot hold.

        Raises:
            RemoteError: too little is free.
        """
        need = total_bytes(uploads) + _SPARE_BYTES
        if self.free_bytes < need:
            raise self._full(connection, need, self.free_bytes)

    async def copy(
        self,
        connection: Connection,
        uploads: list[Upload],
        *,
        step: Callable[[int], None] | None = None,
    ) -> None:
        """Copy files; those that are there whole already are left, so it may be called again.

        Args:
            connection: to the host.
            uploads: the files.
            step: receives the bytes of all files that are copied so far.

        Raises:
            RemoteError: the disk there is full, or a file cannot be written.
            asyncssh.Error: one of `connection.LOST`.
        """
        done = 0
        try:
            async with _sftp(connection) as sftp:
                for parent in sorted({str(PurePosixPath(u.target).parent) for u in uploads}):
                    await sftp.makedirs(f"{self.path}/{parent}", exist_ok=True)
                for upload in uploads:
                    size = upload.bytes
                    if await _size(sftp, f"{self.path}/{upload.target}") != size:
                        await self._put(sftp, upload, done, step)
                    done += size
        except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem) as error:
            total = total_bytes(uploads)
            free = await self._free(connection)
            # sshd says "Failure" for a full disk as for anything else.
            if free < total - done + _SPARE_BYTES:
                raise self._full(connection, total - done, free) from error
            raise _failed(connection, error) from error
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied) as error:
            raise _failed(connection, error) from error

    async def write(self, connection: Connection, name: str, content: object) -> None:
        """Write a JSON file: whole, or not at all.

        Raises:
            RemoteError: it cannot be written.
            asyncssh.Error: one of `connection.LOST`.
        """
        try:
            async with _sftp(connection) as sftp:
                target = f"{self.path}/{name}"
                async with sftp.open(f"{target}.new", "w") as file:
                    await file.write(json.dumps(content))
                await sftp.posix_rename(f"{target}.new", target)
        except (asyncssh.SFTPFailure, asyncssh.SFTPNoSuchFile) as error:
            raise _failed(connection, error) from error

    async def read(self, connection: Connection, name: str) -> str | None:
        """Text of a file in the directory, or None where there is no such file.

        Raises:
            RemoteError: it is too large.
            asyncssh.Error: one of `connection.LOST`.
        """
        try:
            async with (
                _sftp(connection) as sftp,
                sftp.open(f"{self.path}/{name}", "rb") as file,
            ):
                content = cast(bytes, await file.read(_MOST_BYTES + 1))
        except asyncssh.SFTPNoSuchFile:
            return None
        if len(content) > _MOST_BYTES:
            raise RemoteError(
                f"{connection.route.destination}: {name} has more than {_MOST_BYTES} bytes: is "
                "that host what it should be?"
            )
        return content.decode(errors="replace")

    async def remove(self, connection: Connection) -> None:
        """End all that runs there and remove the directory.

        Raises:
            asyncssh.Error: one of `connection.LOST`.
        """
        await connection.call(f"sh -c {shlex.quote(_REMOVE)} sh {shlex.quote(self.path)}")

    async def _put(
        self,
        sftp: asyncssh.SFTPClient,
        upload: Upload,
        done: int,
        step: Callable[[int], None] | None,
    ) -> None:
        target = f"{self.path}/{upload.target}"
        # Blocks arrive in any order: half a file may have the size of a whole one.
        await sftp.put(
            str(upload.source),
            f"{target}.part",
            sparse=False,
            progress_handler=(lambda _from, _to, sent, _all: step(done + sent)) if step else None,
        )
        if upload.executable:
            await sftp.chmod(f"{target}.part", 0o700)
        await sftp.posix_rename(f"{target}.part", target)

    async def _free(self, connection: Connection) -> int:
        result = await connection.call(self.command(self._settings.python, "-c", _PRINT_FREE, "."))
        last = (result.out.splitlines() or [""])[-1]
        return int(last) if re.fullmatch(r"[0-9]{1,18}", last) else 0

    def _full(self, connection: Connection, need: int, free: int) -> RemoteError:
        found, expected = millions(free, need)
        return RemoteError(
            f"{connection.route.destination}: disk full: {found} MB free at "
            f"{PurePosixPath(self.path).parent}, {expected} MB needed; make room, or "
            "name another place by --remote-directory"
        )


async def make_host_directory(connection: Connection, settings: HostSettings) -> HostDirectory:
    """Make a temporary directory on a host, with its guard.

    Raises:
        RemoteError: it cannot be made there, or the host says something else.
        asyncssh.Error: one of `connection.LOST`.
    """
    parent = settings.directory or "~"
    command = shlex.join([settings.python, "-", parent, f"{settings.patience_s:g}"])
    result = await connection.call(command, send=Path(detached.__file__).read_text("utf-8"))
    if result.code:
        raise RemoteError(
            f"{connection.route.destination}: no directory can be made there: "
            f"{result.error.removeprefix('error: ')}; name another place by --remote-directory"
        )
    last = (result.out.splitlines() or [""])[-1]  # what a shell prints as it starts comes before
    try:
        made = parse_json(last)
        _MADE(made, "")
    except ValueError as error:
        raise RemoteError(
            f"{connection.route.destination}: {settings.python} there printed {last[:60]!r}, "
            f"expected a directory: {error}; name another by --remote-python"
        ) from error
    return HostDirectory(made["directory"], free_bytes=made["free_bytes"], settings=settings)


class _sftp:
    """An SFTP session; a host without SFTP is an error of one line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> asyncssh.SFTPClient:
        """Start it."""
        try:
            self._client = await self._connection.ssh.start_sftp_client()
        except asyncssh.ChannelOpenError as error:
            if self._connection.ssh.is_closed():
                raise
            raise self._missing(error) from error
        except asyncssh.SFTPError as error:
            if self._connection.ssh.is_closed():
                raise
            raise self._missing(error) from error
        return self._client

    async def __aexit__(self, *_details: object) -> None:
        """End it."""
        self._client.exit()

    def _missing(self, error: Exception) -> RemoteError:
        return RemoteError(
            f"{self._connection.route.destination}: no SFTP there ({error}): its sshd_config needs "
            "`Subsystem sftp internal-sftp`, and its shell's start-up files must print nothing"
        )


async def _size(sftp: asyncssh.SFTPClient, path: str) -> int | None:
    try:
        return (await sftp.stat(path)).size
    except asyncssh.SFTPNoSuchFile:
        return None


def _failed(connection: Connection, error: asyncssh.SFTPError) -> RemoteError:
    return RemoteError(
        f"{connection.route.destination}: copying failed: {error.reason or error}; is that place "
        "still there and writable?"
    )
