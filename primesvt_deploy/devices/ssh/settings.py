"""Settings of a host to measure on: address, keys, interpreter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.errors import SettingsError

__all__ = ["HostSettings"]

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True)
class HostSettings:
    """A host to measure on, with the options that `ssh` takes.

    Attributes:
        destination: `user@host` or `host`; a name of the ssh_config will do.
        port: port of its sshd; None: as ssh_config says, else 22.
        identity: a private key; None: as ssh_config says, else the usual ones, and the agent's.
        config: an ssh_config file; None: the user's and the system's.
        known_hosts: a known_hosts file; None: as ssh_config says, else the usual files.
        host_key: fingerprint (`SHA256:...`) that the user vouches for: the server's key must have
            it, whatever the known hosts say.
        bootstrap: make a virtual environment with onnxruntime and numpy on the host, or use the
            one that was made before.
        compiler: command of a cross compiler on this machine, which compiles the native runtime;
            None: the host's own does.
        python: the host's interpreter.
        directory: parent of the temporary directory on the host; None: the home directory.
        patience_s: seconds that a lost connection may take to come back; after that the host ends
            the job and removes its files.

    Raises:
        SettingsError: a field is out of range or malformed.
    """

    destination: str
    port: int | None = None
    identity: Path | None = None
    config: Path | None = None
    known_hosts: Path | None = None
    host_key: str | None = None
    bootstrap: bool = False
    compiler: str | None = None
    python: str = "python3"
    directory: str | None = None
    patience_s: float = 120.0

    def __post_init__(self) -> None:
        """Check all fields; see the class."""
        if not self.host or self.destination.startswith("-") or self.user == "":
            raise SettingsError(
                f"--host: found {self.destination!r}, expected user@host or host; correct it"
            )
        if self.port is not None and not 0 < self.port < 1 << 16:
            raise SettingsError(f"--port: found {self.port}, expected 1 to 65535; correct it")
        if self.host_key is not None and not _FINGERPRINT.fullmatch(self.host_key.rstrip("=")):
            raise SettingsError(
                f"--accept-host-key: found {self.host_key!r}, expected SHA256: and 43 characters; "
                "take what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the device"
            )
        if not self.patience_s > 0:
            raise SettingsError(
                f"--patience: found {self.patience_s:g}, expected seconds, more than 0; correct it"
            )

    @property
    def user(self) -> str | None:
        """The user named in the destination, if one is."""
        user, at, _ = self.destination.rpartition("@")
        return user if at else None

    @property
    def host(self) -> str:
        """The destination without its user."""
        return self.destination.rpartition("@")[2]
