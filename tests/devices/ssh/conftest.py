"""A real sshd on loopback, and a home of its own for the client."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from primesvt_deploy.devices.emulated_arm.debian_packages import unpack
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import EmulationError

_PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0", "libnsl2", "libtirpc3")
_SMALL = "small"
_AS_ROOT = """
set -e
mount --bind {passwd} /etc/passwd
mount --bind {group} /etc/group
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o size=34m tmpfs {small}
exec {sshd}
"""
"""Inside a mount namespace of its own: another user's name and home, and a small disk."""


def until(check: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def _processes() -> Iterator[Path]:
    yield from (path for path in Path("/proc").iterdir() if path.name.isdigit())


@dataclass
class Server:
    """A running sshd.

    `home` is where the user's things are, `small` a place with a small disk, `log` what sshd says.
    """

    folder: Path
    program: Path
    libraries: str
    port: int
    user: str
    contained: bool
    host_key: Path
    client_key: Path
    process: subprocess.Popen[bytes] | None = None
    extra: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def small(self) -> Path:
        return self.folder / _SMALL

    def start(self, host_key: Path | None = None) -> None:
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {host_key or self.host_key}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            *(self.extra or ["Subsystem sftp internal-sftp"]),
        ]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        command = [str(self.program), "-D", "-e", "-f", str(config)]
        if self.contained:
            script = _AS_ROOT.format(
                passwd=self.folder / "passwd",
                group=self.folder / "group",
                small=self.small,
                sshd=" ".join(command),
            )
            command = ["unshare", "-m", "sh", "-c", script]
        log = self.folder / "sshd.log"
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                command, stderr=errors, env={**os.environ, "LD_LIBRARY_PATH": self.libraries}
            )
        running = self.process
        until(lambda: running.poll() is not None or b"Server listening" in log.read_bytes())
        if running.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")

    def sessions(self) -> list[int]:
        """Its processes that serve a connection."""
        assert self.process is not None
        found, parents = [], {self.process.pid}
        while parents:
            children = {
                int(path.name) for path in _processes() if _parent(path) in parents
            } - parents
            children = {pid for pid in children if "sshd" in _read(Path(f"/proc/{pid}/comm"))}
            found += children
            parents = children
        return found

    def drop(self) -> None:
        """Kill every connection; new ones are taken."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            sessions = self.sessions()
            self.process.kill()
            self.process.wait()
            for pid in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process = None

    def left(self) -> list[str]:
        """What is left there: files, and processes that know of the home directory."""
        files = [str(path) for path in self.home.glob("primesvt-deploy-*")]
        return files + [
            _read(path / "cmdline")
            for path in _processes()
            if int(path.name) != os.getpid() and self._mentioned(path)
        ]

    def _mentioned(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd").startswith(str(self.home)):
                return True
        return str(self.home) in _read(process / "cmdline")


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _parent(process: Path) -> int:
    words = _read(process / "stat").rpartition(")")[2].split()
    return int(words[1]) if words else -1


@pytest.fixture(scope="session")
def sshd(pytestconfig: pytest.Config) -> tuple[Path, str]:
    """The program, and where its libraries are."""
    for program in ("ssh-keygen", "unshare") if os.getuid() == 0 else ("ssh-keygen",):
        if not shutil.which(program):
            pytest.skip(f"there is no {program} here")
    installed = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if installed:
        return Path(installed).resolve(), ""
    cache = pytestconfig.cache
    if cache is None:
        pytest.skip("there is no sshd here, and no cache to unpack one into")
    folder = Path(cache.mkdir("sshd"))
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = folder / "root/usr/sbin/sshd"
        if not program.exists():
            try:
                unpack(_PACKAGES, folder / "new")
            except EmulationError as error:
                pytest.skip(f"there is no sshd here, nor can it be had: {error}")
            (folder / "new").rename(folder / "root")
    libraries = {str(path.parent) for path in (folder / "root").rglob("*.so*")}
    return program, ":".join(sorted(libraries))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `host`, `other_host`, `client` and `other_client`, and an encrypted key."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("there is no ssh-keygen here")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("host", "other_host", "client", "other_client"):
        keygen(folder / name)
    keygen(folder / "locked", passphrase="secret")
    return folder


@pytest.fixture
def stopped(
    sshd: tuple[Path, str], keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """An sshd that is not running yet; the client's home is empty but for an own ssh_config."""
    for name in ("home", _SMALL, "client"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "client"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    contained = os.getuid() == 0
    (tmp_path / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        f"pi:*:0:0::{tmp_path / 'home'}:/bin/sh\n"
    )
    (tmp_path / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    shutil.copy(keys / "client.pub", tmp_path / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = (keys / "host.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (tmp_path / "ssh_config").write_text("")
    server = Server(
        folder=tmp_path,
        program=sshd[0],
        libraries=sshd[1],
        port=port,
        user="pi" if contained else getpass.getuser(),
        contained=contained,
        host_key=keys / "host",
        client_key=keys / "client",
    )
    yield server
    server.stop()


@pytest.fixture
def server(stopped: Server) -> Server:
    """A running sshd."""
    stopped.start()
    return stopped


@pytest.fixture
def host(stopped: Server) -> HostSettings:
    """How to reach it."""
    return HostSettings(
        f"{stopped.user}@127.0.0.1",
        port=stopped.port,
        identity=stopped.client_key,
        config=stopped.folder / "ssh_config",
        known_hosts=stopped.folder / "known_hosts",
        python=sys.executable,
        directory=str(stopped.home),
        patience_s=20.0,
    )


_JOB = """
import json, os, pathlib, signal, subprocess, sys, time

request = json.loads(pathlib.Path(sys.argv[1]).read_text())
wishes = request["settings"]
assert pathlib.Path(request["bundles"][0], "weights.bin").stat().st_size == 3000
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for number in range(wishes.get("lines", 0)):
    print("line", number)
if "says" in wishes:
    print(wishes["says"])
until = wishes.get("until")
while until and not pathlib.Path(until).exists():
    time.sleep(0.02)
if "error" in wishes:
    sys.exit("something before\\nerror: " + wishes["error"])
if "signal" in wishes:
    os.kill(os.getpid(), wishes["signal"])
print("last line, unfinished", end="")
found = json.dumps({"bundles": request["bundles"], "seen": wishes})
pathlib.Path(sys.argv[2]).write_text(wishes.get("result", found))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Something to copy; it brings the stand-in of the job along."""
    folder = tmp_path / "a bundle"
    (folder / "runtime").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(3000))
    (folder / "runtime" / "x.py").write_text("")
    (folder / "standin.py").write_text(_JOB)
    return folder
