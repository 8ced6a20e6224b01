"""Keys of a host in the known_hosts files, read as OpenSSH does: all files, none required.

asyncssh's own choice of files is another one: it takes `UserKnownHostsFile none` for "trust every
key", and leaves the usual files out as soon as one of the two settings stands in the ssh_config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

__all__ = ["KnownKeys", "known_keys"]

_USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_SSH_PORT = 22
_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


@dataclass(frozen=True)
class KnownKeys:
    """Keys of one host in the known_hosts files.

    Attributes:
        name: the host's name there, such as `[pi]:2222`.
        keys: keys that the host may have.
        authorities: keys that may sign its certificate.
        revoked: keys that no host may have.
        file: the first file with a key of exactly that name, so that another key is a changed
            one; None: there is no such file.
    """

    name: str
    keys: tuple[asyncssh.SSHKey, ...]
    authorities: tuple[asyncssh.SSHKey, ...]
    revoked: tuple[asyncssh.SSHKey, ...]
    file: Path | None

    @property
    def algorithms(self) -> list[str]:
        """Signature algorithms to ask the host for: those of its listed keys first, as ssh does."""
        listed = {key.get_algorithm() for key in self.keys}
        plain = [*_ALGORITHMS, *sorted(listed - {*_ALGORITHMS, "ssh-rsa"})]
        kinds = {name: "ssh-rsa" if name.startswith("rsa-") else name for name in plain}
        ordered = sorted(plain, key=lambda name: kinds[name] not in listed)
        signed = [f"{name}-cert-v01@openssh.com" for name in _ALGORITHMS if self.authorities]
        return signed + ordered


def known_keys(
    host: str,
    port: int,
    *,
    alias: str | None,
    user_files: Sequence[str] | None,
    system_files: Sequence[str] | None,
) -> KnownKeys:
    """Look a host up in the known_hosts files.

    Args:
        host: the name or address that is connected to.
        port: port of its sshd.
        alias: HostKeyAlias of the ssh_config.
        user_files: UserKnownHostsFile of the ssh_config, empty for `none`; None: the usual ones.
        system_files: GlobalKnownHostsFile, likewise.
    """
    name = alias or host.lower()
    # A key under the plain name counts for every port; an alias has no port.
    names = [name] if alias or port == _SSH_PORT else [f"[{name}]:{port}", name]
    files = [
        Path(file).expanduser()
        for chosen, usual in ((user_files, _USER_FILES), (system_files, _SYSTEM_FILES))
        for file in (usual if chosen is None else chosen)
    ]
    keys: list[asyncssh.SSHKey] = []
    authorities: list[asyncssh.SSHKey] = []
    revoked: list[asyncssh.SSHKey] = []
    first: Path | None = None
    for file in files:
        entries = _read(file)
        for candidate in names:
            found = entries.match(candidate, "", None)
            keys += found[0]
            authorities += found[1]
            revoked += found[2]
            if first is None and candidate == names[0] and found[0]:
                first = file
    return KnownKeys(names[0], tuple(keys), tuple(authorities), tuple(revoked), first)


def _read(file: Path) -> asyncssh.SSHKnownHosts:
    """Entries of a file, without damaged lines; none where there is no file."""
    entries = asyncssh.SSHKnownHosts()
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return entries
    for line in lines:
        try:
            entries.load(line)
        except ValueError:
            continue
    return entries
