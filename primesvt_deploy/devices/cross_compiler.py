"""A C compiler of this machine for another processor, as the native runtime's Makefile takes it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

__all__ = ["make_variables"]


def make_variables(compiler: Sequence[str]) -> dict[str, str]:
    """The Makefile's `CC`, and `AR` where the compiler's own archiver is there.

    Args:
        compiler: its command, such as `aarch64-linux-gnu-gcc`.
    """
    archiver = f"{compiler[0].removesuffix('gcc')}ar"
    own = compiler[0].endswith("-gcc") and shutil.which(archiver)
    return {"CC": shlex.join(compiler), **({"AR": archiver} if own else {})}
