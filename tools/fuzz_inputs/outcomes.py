"""Give a target one file, and judge what it does: refuse it in one line, take it, or neither."""

from __future__ import annotations

import contextlib
import io
import time
import traceback
from dataclasses import dataclass
from random import Random

from fuzz_inputs.targets import Target, Wrong
from primesvt_deploy.errors import DeployError

__all__ = ["MOST_SECONDS", "Found", "judge", "judge_many"]

MOST_SECONDS = 10.0
"""A case that takes longer has hung, or nearly."""
_MOST_CHARACTERS = 1500


@dataclass(frozen=True)
class Found:
    """A case that was not clean.

    Args:
        target: name of the kind of file.
        kind: `wrong`, something altered was taken for the real thing; or `crash`: anything but one
            line, or more than `MOST_SECONDS`.
        said: what happened.
        content: the file.
    """

    target: str
    kind: str
    said: str
    content: bytes


def judge(target: Target, content: bytes) -> Found | None:
    """What a target does with a file that it must not do; None: it was taken or refused well."""
    said, kind = "", "crash"
    started = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            target.use(content)
        except DeployError as error:
            # As it was raised: the class itself escapes what would break a line.
            message = str(error.args[0])
            if len(message.splitlines()) != 1 or len(message) > _MOST_CHARACTERS:
                said = f"no single line: {error!r:.300}"
        except Wrong as error:
            said, kind = str(error), "wrong"
        except Exception:
            said = traceback.format_exc(limit=-4)
    if not said and errors.getvalue():
        said = f"on standard error: {errors.getvalue()[:300]}"
    seconds = time.monotonic() - started
    if not said and seconds > MOST_SECONDS:
        said = f"it took {seconds:.1f} s"
    return Found(target.name, kind, said, content) if said else None


def judge_many(target: Target, random: Random, count: int) -> list[Found]:
    """Judge so many altered files, each made of one of the target's whole ones."""
    found = []
    for _ in range(count):
        content = target.alter(random.choice(target.seeds), random)
        case = judge(target, content)
        if case is not None:
            found.append(case)
    return found
