"""The ledger: every candidate evaluated, one JSON line each, appended as it happens.

A ledger belongs to one search key (model, data, settings); a build that was cut off finds its
candidates here and evaluates none of them twice. Others may have written to the file: a line that
is no candidate is passed over, and stays.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.files import open_regular
from primesvt_deploy.errors import PruningError
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop

__all__ = ["Candidate", "Decision", "Ledger"]

_MOST_BYTES, _MOST_LINES, _MOST_LINE = 2**30, 1_000_000, 2**22
"""Bounds of a file that is read, its lines, and bytes of one: far above those of any search."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Name = Annotated[str, msgspec.Meta(max_length=1000)]
_Digest = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Decision = Literal["", "within", "beyond"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated candidate.

    Args:
        plan: digest of the plan.
        limit: images to judge it on, at most.
        step: `dense`, `free`, `robustness`, or the name of a policy.
        group: the group that was varied; empty where it was none or several.
        rate: share of the group's channels removed.
        kept: channels it has left.
        correct, lost, gained, n: outcome on the search images seen (see `PairedDrop`).
        decision: before all `limit` images it was sure that the drop on them is `within` the limit
            that it was held against, or `beyond` it (see `measure.sequential`); empty: nothing was
            decided before.
        allowed: that limit, percentage points; None: there is no such decision.
        seconds: it took.
        divergence: mean over the images seen of the Kullback-Leibler divergence of its class
            probabilities from the dense model's, nats; None where it was not requested.
        channels: which channels of each pruned group stay (see `Plan.packed`).
        flags: hex of the packed per-image flags of the `n` images; of the dense model, and of a
            candidate that not all images were seen of, so that it can go on.
        weights: SHA-256 of the file of its weights; the dense model's alone, if it has a file.
        device: kind of the device that computed it, such as `cpu`; empty: not recorded.
    """

    plan: _Digest
    limit: _Count
    step: _Name
    group: _Name = ""
    rate: _Share = 0.0
    kept: _Count = 0
    correct: _Count
    lost: _Count
    gained: _Count
    n: _Count
    decision: Decision = ""
    allowed: _Number | None = None
    seconds: _Number
    divergence: _Number | None = None
    channels: dict[_Name, str] = field(default_factory=dict)
    flags: str = ""
    weights: str = ""
    device: _Name = ""

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 on the images seen."""
        return Accuracy(self.correct, self.n)

    @property
    def drop(self) -> PairedDrop:
        """Against the dense model on the same images."""
        return PairedDrop(self.lost, self.gained, self.n)

    @property
    def key(self) -> tuple[str, int]:
        """Identity of a candidate: one plan on one number of images is evaluated once."""
        return self.plan, self.limit

    @property
    def whole(self) -> bool:
        """Whether all its images were seen."""
        return self.n == self.limit

    def within(self, allowed: float) -> bool | None:
        """Whether the drop on all its images is within a limit; None: it was not decided.

        Args:
            allowed: percentage points.
        """
        if self.whole:
            return self.drop.points <= allowed
        if self.allowed is None:
            return None
        if self.decision == "within" and self.allowed <= allowed:
            return True
        return False if self.decision == "beyond" and self.allowed >= allowed else None

    def hits(self) -> npt.NDArray[np.bool_]:
        """The per-image flags."""
        packed = np.frombuffer(bytes.fromhex(self.flags), dtype=np.uint8)
        return np.unpackbits(packed, count=self.n).astype(np.bool_)

    @staticmethod
    def packed(hits: npt.NDArray[np.bool_]) -> str:
        """The inverse of `hits`."""
        return np.packbits(hits).tobytes().hex()


class Ledger:
    """Candidates by key, backed by a file if `path` is given; reading leaves the file as it is.

    Args:
        path: of the file, which need not exist.

    Attributes:
        dropped: lines of the file that are no candidate, such as one that a kill cut off.

    Raises:
        PruningError: it is no regular file, cannot be read, or is larger than any search's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.dropped = path, 0
        self._known: dict[tuple[str, int], Candidate] = {}
        for line in () if path is None else _lines(path):
            entry = _candidate(line)
            if entry is not None:
                self._known[entry.key] = entry
            elif line.strip():
                self.dropped += 1

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self._known)

    def __iter__(self) -> Iterator[Candidate]:
        """Candidates in the order they were evaluated."""
        return iter(self._known.values())

    def find(self, plan: str, limit: int) -> Candidate | None:
        """The candidate of this plan digest and limit, or None."""
        return self._known.get((plan, limit))

    def hits(self, plan: str, limit: int) -> npt.NDArray[np.bool_]:
        """Per-image flags of this plan digest and limit, `[n]`: of as many images as are known."""
        found = self.find(plan, limit)
        if found is None or not found.flags:
            return np.zeros(0, dtype=np.bool_)
        return found.hits()

    @property
    def devices(self) -> frozenset[str]:
        """Kinds of devices that computed these candidates, as far as they were recorded."""
        return frozenset(candidate.device for candidate in self if candidate.device)

    def append(self, candidate: Candidate) -> None:
        """Keep a candidate, on disk before this returns.

        Raises:
            OSError: it cannot be written; the lines before are whole.
        """
        self._known[candidate.key] = candidate
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(candidate)).encode() + b"\n"
        with self.path.open("a+b", buffering=0) as file:
            _append(file, line)


def _append(file: io.FileIO, line: bytes) -> None:
    """Append a line of its own: one write, so that a kill cuts none in two."""
    start = file.seek(0, os.SEEK_END)
    if start:
        file.seek(start - 1)
        line = line if file.read(1) == b"\n" else b"\n" + line
    written = 0
    try:
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        if file.seek(0, os.SEEK_END) == start + written:  # no other process wrote behind it
            file.truncate(start)
        raise


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a ledger file, of a missing one none; of one that is too long its end."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise PruningError(
                    f"{on_one_line(str(path))} has more than {_MOST_BYTES} bytes: no search wrote "
                    "it; move it away to start over"
                )
            yield from _bounded(file, path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PruningError(
            f"{on_one_line(str(path))} cannot be read ({reason}): move it away to start over"
        ) from error


def _bounded(file: BinaryIO, path: Path) -> Iterator[bytes]:
    for _ in range(_MOST_LINES):
        line = file.readline(_MOST_LINE)
        if not line:
            return
        end = line
        while len(end) == _MOST_LINE and not end.endswith(b"\n"):
            line, end = b"too long", file.readline(_MOST_LINE)
        yield line
    raise PruningError(
        f"{on_one_line(str(path))} has more than {_MOST_LINES} lines: no search wrote it; move it "
        "away to start over"
    )


_DECODER = msgspec.json.Decoder(Candidate)


def _candidate(line: bytes) -> Candidate | None:
    """The candidate of a line, or None: it is none whose values can be."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    counts = max(found.correct, found.lost + found.gained) <= found.n <= found.limit
    texts = (found.plan, found.step, found.group, found.device, *found.channels)
    # A decision names its limit, and only one before all images is kept.
    decided = (found.decision != "") == (found.allowed is not None)
    decided &= found.decision == "" or not found.whole
    if not counts or not decided or not "".join(texts).isprintable():
        return None
    packed = [_bytes(text) for text in found.channels.values()]
    return found if None not in packed and _flags_fit(found) else None


def _bytes(text: str) -> bytes | None:
    """Bytes of a hex text, at least one, or None: it is none that `bytes.hex` writes."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if found and found.hex() == text else None


def _flags_fit(candidate: Candidate) -> bool:
    """Whether flags, if there are any, are of so many images and count as many right ones."""
    if not candidate.flags:
        return True
    packed = _bytes(candidate.flags)
    fits = packed is not None and len(packed) == -(-candidate.n // 8)
    return fits and int(candidate.hits().sum()) == candidate.correct
