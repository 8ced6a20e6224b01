"""Guard on the device: runs commands, and removes everything when its host does not come back.

Sent as a script: `python3 - PARENT PATIENCE_S < detached.py`. It makes a directory in PARENT,
prints `{"directory": ..., "free_bytes": ...}` and lives on by itself. In that directory

- `alive` is refreshed by the host; where it is not for PATIENCE_S, or is removed, everything ends:
  the running command's whole process group, then the directory;
- `command-N.json` (`{"argv": [...]}`, N from 0) is run there, its output to `progress.log`, its
  errors to `error-N.log`;
- `rc-N` is a link to its exit status, negative for a signal;
- `lock` is locked as long as the guard lives.

Imports the standard library alone, and nothing of this package: the script comes before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

__all__ = ["Guard", "main"]

_POLL_S = 0.1
_GRACE_S = 3.0
"""What a command gets between SIGTERM and SIGKILL."""


class Guard:
    """Watches over one directory until its host removes it or no longer responds.

    Args:
        directory: existing directory with a file `alive` in it.
        patience_s: seconds without a sign of the host after which everything ends.
    """

    def __init__(self, directory: Path, *, patience_s: float) -> None:
        self._directory, self._patience_s = directory, patience_s
        self._stamp, self._since = 0, time.monotonic()

    def watch(self) -> None:
        """Run the requested commands one after the other; remove the directory at the end."""
        try:
            with open(self._directory / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                number = 0
                while self._wanted():
                    order = self._directory / f"command-{number}.json"
                    if order.exists():
                        self._run(number, json.loads(order.read_text())["argv"])
                        number += 1
                    time.sleep(_POLL_S)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _wanted(self) -> bool:
        try:
            stamp = os.stat(self._directory / "alive").st_mtime_ns
        except OSError:
            return False
        # The device's clock may jump (no battery behind it): a change counts, not the time of day.
        if stamp != self._stamp:
            self._stamp, self._since = stamp, time.monotonic()
        return time.monotonic() - self._since < self._patience_s

    def _run(self, number: int, argv: list[str]) -> None:
        with (
            open(self._directory / "progress.log", "ab") as progress,
            open(self._directory / f"error-{number}.log", "wb") as errors,
        ):
            try:
                job = subprocess.Popen(
                    argv,
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=progress,
                    stderr=errors,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
            except OSError as error:
                errors.write(f"error: {argv[0]}: {error.strerror}\n".encode())
                code = 127
            else:
                code = self._attend(job)
        # A link appears whole, and on a full disk too.
        with contextlib.suppress(OSError):
            os.symlink(str(code), self._directory / f"rc-{number}")

    def _attend(self, job: subprocess.Popen[bytes]) -> int:
        """Wait for a command; its whole group has ended when this returns, or raises."""
        try:
            while self._wanted() and not _ended(job.pid):
                time.sleep(_POLL_S)
        finally:
            if not _ended(job.pid):
                os.killpg(job.pid, signal.SIGTERM)
                deadline = time.monotonic() + _GRACE_S
                while not _ended(job.pid) and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
            # Not reaped yet, so the number is still this group's; workers may outlive their leader.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(job.pid, signal.SIGKILL)
        return job.wait()


def _ended(pid: int) -> bool:
    """Whether a child process has ended; this does not reap it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _detach() -> None:
    """Continue in a new process and session, without the caller's streams."""
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def main(parent: str, patience_s: float) -> None:
    """Make a directory in `parent`, print it, and guard it from then on.

    Raises:
        OSError: the directory cannot be made.
    """
    directory = Path(tempfile.mkdtemp(prefix="primesvt-deploy-", dir=os.path.expanduser(parent)))
    (directory / "alive").touch()
    free = shutil.disk_usage(directory).free
    print(json.dumps({"directory": str(directory), "free_bytes": free}))
    _detach()
    signal.signal(signal.SIGTERM, _end)
    Guard(directory, patience_s=patience_s).watch()


if __name__ == "__main__":
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except OSError as problem:
        sys.exit(f"error: {problem.filename or sys.argv[1]}: {problem.strerror}")
