"""A finding of `doctor`: what was looked for, whether it is there, and what mends it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BROKEN", "MISSING", "OK", "Finding", "apt"]

OK, MISSING, BROKEN = "ok", "missing", "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        area: the heading that it stands under.
        name: what was looked for.
        state: `ok`, `missing`, or `broken`: it is there and cannot be used.
        found: its version or place; why it is broken.
        needed_for: what does not work without it.
        mend: the command that mends it, or what to do; empty where it is fine.
        required: whether nothing at all works without it.
    """

    area: str
    name: str
    state: str
    found: str = ""
    needed_for: str = ""
    mend: str = ""
    required: bool = False

    @property
    def is_failure(self) -> bool:
        """Whether what is installed cannot work: broken, or missing and required."""
        return self.state == BROKEN or (self.required and self.state == MISSING)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def apt(packages: str) -> str:
    """The command that installs Debian packages; without apt, what to look for."""
    if shutil.which("apt-get"):
        return f"sudo apt install {packages}"
    return f"install what Debian calls {packages}"
