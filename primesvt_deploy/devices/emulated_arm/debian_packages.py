"""Unpack Debian packages without root, for this machine's architecture or another."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.downloads import watched
from primesvt_deploy.devices.emulated_arm.programs import call
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["Apt", "opened_apt", "unpack"]

_PROGRAMS = ("apt-get", "apt-cache", "dpkg", "dpkg-deb")
_CONFIGURATION = """\
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Architecture "{architecture}";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


def unpack(
    packages: Sequence[str],
    target: Path,
    *,
    architecture: str | None = None,
    dependencies: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Download packages by the machine's apt sources and unpack them; nothing is installed.

    No script of a package runs, and the machine's own packages stay as they are.

    Args:
        packages: names of the packages.
        target: the folder that `usr`, `etc` and so on come under; made where it is not there.
        architecture: Debian's name of one, such as `arm64`; None: the machine's.
        dependencies: unpack what they depend on too, libc included, without recommendations.
        progress: gets two stages, for the lists of packages and for these, and their bytes.

    Raises:
        EmulationError: there is no apt here, or a package cannot be fetched.
    """
    with opened_apt(architecture, progress) as apt:
        apt.unpack(packages, target, dependencies=dependencies)


@contextmanager
def opened_apt(architecture: str | None = None, progress: Progress = SILENT) -> Iterator[Apt]:
    """Open apt with the machine's sources and keys, and a temporary state of its own.

    Args:
        architecture: as in `unpack`.
        progress: as in `unpack`.

    Raises:
        EmulationError: there is no apt here.
    """
    missing = [program for program in _PROGRAMS if not shutil.which(program)]
    if missing:
        raise EmulationError(
            f"there is no {missing[0]} here: expected Debian or a system like it, whose packages "
            "are fetched with apt"
        )
    with tempfile.TemporaryDirectory(prefix="primesvt-apt-") as folder:
        architecture = architecture or call(["dpkg", "--print-architecture"]).strip()
        yield Apt(Path(folder), architecture, progress)


class Apt:
    """apt with a state of its own in a folder; see `opened_apt`.

    Args:
        folder: an empty one.
        architecture: Debian's name of the packages' architecture.
        progress: as in `unpack`.
    """

    def __init__(self, folder: Path, architecture: str, progress: Progress = SILENT) -> None:
        self._progress = progress
        self._archives = folder / "cache/archives"
        for part in (folder / "state/lists/partial", self._archives / "partial"):
            part.mkdir(parents=True)
        (folder / "status").touch()
        self._config = folder / "apt.conf"
        self._config.write_text(_CONFIGURATION.format(architecture=architecture, folder=folder))
        self._update_error: EmulationError | None = None
        progress.stage("fetching lists of packages", 1)
        try:
            with watched(folder / "state/lists", progress):
                self.call("apt-get", "update")
        except EmulationError as error:  # one broken source of many may be one that is not needed
            self._update_error = error
        progress.step()

    def call(self, program: str, *arguments: str) -> str:
        """Run `apt-get` or `apt-cache`; its output.

        Raises:
            EmulationError: it fails.
        """
        command = [program, f"--config-file={self._config}", *arguments]
        return call(command, folder=self._archives)

    def unpack(self, packages: Sequence[str], target: Path, *, dependencies: bool) -> None:
        """See the function `unpack`."""
        for old in self._archives.glob("*.deb"):
            old.unlink()
        options = ("install", "--yes", "--download-only", "--no-install-recommends")
        arguments = (*(options if dependencies else ("download",)), *packages)
        self._progress.stage(f"fetching {packages[0]}", 1)
        try:
            with watched(self._archives, self._progress, total=self._bytes(arguments)):
                self.call("apt-get", *arguments)
        except EmulationError as error:  # without lists every package is unknown: raise the cause
            raise self._update_error or error from None
        target.mkdir(parents=True, exist_ok=True)
        for package in sorted(self._archives.glob("*.deb")):
            call(["dpkg-deb", "-x", str(package), str(target)])
        self._progress.step()

    def _bytes(self, arguments: Sequence[str]) -> int:
        """Bytes that a command will download; 0: unknown."""
        try:
            lines = self.call("apt-get", "--print-uris", *arguments).splitlines()
        except EmulationError:  # the command itself will say why
            return 0
        found = (re.match(r"'\S+' \S+ (\d+)", line) for line in lines)
        return sum(int(each[1]) for each in found if each)
