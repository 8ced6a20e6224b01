"""The ledger: every candidate evaluated, one JSON line each, appended as it happens.

A ledger belongs to one search key (model, data, settings); a build that was cut off finds its
candidates here and evaluates none of them twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.errors import PruningError
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop

__all__ = ["Candidate", "Ledger"]


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
        stopped_early: hopeless before all `limit` images.
        seconds: it took.
        divergence: mean over the images seen of the Kullback-Leibler divergence of its class
            probabilities from the dense model's, nats; None where it was not requested.
        channels: which channels of each pruned group stay (see `Plan.packed`).
        flags: hex of the packed per-image flags; the dense model's alone.
        weights: SHA-256 of the file of its weights; the dense model's alone, if it has a file.
    """

    plan: str
    limit: int
    step: str
    group: str = ""
    rate: float = 0.0
    kept: int = 0
    correct: int
    lost: int
    gained: int
    n: int
    stopped_early: bool
    seconds: float
    divergence: float | None = None
    channels: dict[str, str] = field(default_factory=dict)
    flags: str = ""
    weights: str = ""

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

    def hits(self) -> npt.NDArray[np.bool_]:
        """The per-image flags."""
        packed = np.frombuffer(bytes.fromhex(self.flags), dtype=np.uint8)
        return np.unpackbits(packed, count=self.n).astype(np.bool_)

    @staticmethod
    def packed(hits: npt.NDArray[np.bool_]) -> str:
        """The inverse of `hits`."""
        return np.packbits(hits).tobytes().hex()


class Ledger:
    """Candidates by key, backed by a file if `path` is given.

    A last line that a kill cut off is dropped.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[tuple[str, int], Candidate] = {}
        if path is not None and path.is_file():
            for line in _whole_lines(path):
                entry = Candidate(**line)
                self._known[entry.key] = entry

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self._known)

    def __iter__(self) -> Iterator[Candidate]:
        """Candidates in the order they were evaluated."""
        return iter(self._known.values())

    def find(self, plan: str, limit: int) -> Candidate | None:
        """The candidate of this plan digest and limit, or None."""
        return self._known.get((plan, limit))

    def append(self, candidate: Candidate) -> None:
        """Keep a candidate, on disk before this returns."""
        self._known[candidate.key] = candidate
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(candidate)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a ledger file; a torn last line is cut from the file."""
    text = path.read_bytes()
    whole, _, torn = text.rpartition(b"\n")
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    try:
        return [json.loads(line) for line in whole.splitlines() if line]
    except ValueError as error:
        raise PruningError(f"{path} is damaged ({error}): delete it to start over") from error
