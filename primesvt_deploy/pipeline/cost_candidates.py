"""Seconds of candidates: their recovery, and their images from the deepest cached state on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pruning.policies.work import Visit, Work

__all__ = ["CandidateCost"]


@dataclass(frozen=True, kw_only=True)
class CandidateCost:
    """Seconds of candidates, with states cached as `state_cache` does it.

    Args:
        pace: of this machine.
        dense_images: search images that the dense model is run on, whose states are cached.
        cache_bytes: memory for states.
        chunk: images between two looks.
        workers: processes that share the images of a candidate; each recovers it by itself.
    """

    pace: Pace
    dense_images: int
    cache_bytes: int
    chunk: int
    workers: int = 1

    def seconds(self, work: Work) -> Span:
        """Seconds of all candidates of a stage."""
        starts = self._starts(work)
        found = [self._of_visit(visit, *starts[i]) for i, visit in enumerate(work.visits)]
        return Span.total(found)

    def state_bytes(self, images: int) -> int:
        """Bytes of the states of so many images at all entrances, as far as they are kept."""
        entrances = set(self.pace.entrance.values()) - {0}
        each = sum(self.pace.segments[index].state_bytes for index in entrances)
        return int(min(self.cache_bytes, each * images))

    def whole(self, images: float, share: float = 1.0, *, keeping: bool = False) -> float:
        """Seconds of a network from its images on.

        Args:
            images: how many.
            share: of the dense model's bytes that it has.
            keeping: cache the states at all entrances.
        """
        cached = sum(segment.keep_s for segment in self.pace.segments) if keeping else 0.0
        each = self.pace.load_s + share * (self.pace.image_s - self.pace.load_s) + cached
        return self._shared(images) * each

    def recovery(self, group: str | None, start: int = 0) -> float:
        """Seconds of recovering a candidate that varies a group, or all; norms from a segment on.

        Args:
            group: its name; None: several, whose consumers were refitted before.
            start: index of the segment.
        """
        pace = self.pace
        if not pace.recovery_s and not pace.matched_images:
            return 0.0
        dearest = max(pace.recovery_s.values(), default=0.0)
        matching = pace.matched_images * pace.from_segment(start, matching=True)
        return matching + (dearest if group is None else pace.recovery_s.get(group, dearest))

    def _of_visit(self, visit: Visit, first: int, later: int) -> Span:
        """Seconds of a visit whose first candidate starts at one segment, later ones at another."""
        if visit.group is None:
            ones = [
                self.recovery(None) + self.whole(images, visit.share)
                for images in (visit.images.likely, visit.images.low, visit.images.high)
            ]
            return visit.candidates * Span(*ones)
        ends = zip(
            (visit.candidates.likely, visit.candidates.low, visit.candidates.high),
            (visit.images.likely, visit.images.low, visit.images.high),
            strict=True,
        )
        return Span(
            *(
                min(count, 1.0) * self._of_one(visit.group, first, images)
                + max(count - 1.0, 0.0) * self._of_one(visit.group, later, images)
                for count, images in ends
            )
        )

    def _of_one(self, group: str, start: int, images: float) -> float:
        each = self.pace.from_segment(start)
        return self.recovery(group, start) + self._shared(images) * each

    def _starts(self, work: Work) -> list[tuple[int, int]]:
        """Segments that the first candidate of each visit and the later ones start at."""
        dense_fits = self._fit(self.dense_images, deepest=None)
        found: list[tuple[int, int]] = []
        cached = {0}
        for visit in work.visits:
            own = 0 if visit.group is None else self.pace.entrance.get(visit.group, 0)
            own = own if self._fit(visit.images.high, deepest=own) else 0
            dense = visit.around_dense and dense_fits
            first = own if dense else max(index for index in cached if index <= own)
            # A plan that grows leaves behind what was cached under the one before.
            cached = {0} if work.accumulates else cached | {own}
            found.append((first, own))
        return found

    def _fit(self, images: float, deepest: int | None) -> bool:
        """Whether the states at an entrance, or at all of them, fit the memory for them."""
        places = set(self.pace.entrance.values()) if deepest is None else {deepest}
        each = sum(self.pace.segments[index].state_bytes for index in places - {0})
        return each * images <= self.cache_bytes

    def _shared(self, images: float) -> float:
        """Images that the busiest worker runs: whole chunks go round."""
        if self.workers <= 1:
            return images
        chunks = math.ceil(images / self.chunk)
        return min(images, math.ceil(chunks / self.workers) * self.chunk)
