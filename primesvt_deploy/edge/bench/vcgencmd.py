"""Query the firmware of a Raspberry Pi with `vcgencmd`."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

__all__ = ["ask_firmware", "read_throttled"]

_SECONDS = 5.0
_FLAGS = (
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
)
_SINCE_BOOT = 16


def ask_firmware(request: str, *, seconds: float = _SECONDS) -> str | None:
    """Run `vcgencmd` and return its output; None where it is missing, fails or hangs.

    Args:
        request: its command, such as `get_throttled`.
        seconds: how long it may take.
    """
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, request],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=seconds,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("ascii", errors="replace")


def read_throttled() -> dict[str, Any] | None:
    """Throttling: `raw` bits (hexadecimal), and names of the conditions `now` and `since_boot`."""
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", ask_firmware("get_throttled") or "")
    if found is None:
        return None
    bits = int(found.group(1), 16)
    return {
        "raw": found.group(1),
        "now": [name for bit, name in _FLAGS if bits >> bit & 1],
        "since_boot": [name for bit, name in _FLAGS if bits >> (bit + _SINCE_BOOT) & 1],
    }
