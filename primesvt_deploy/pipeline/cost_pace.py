"""Seconds and bytes that single operations take on this machine, as they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["Pace", "SegmentPace"]

_IN_ARTIFACT = 0.75
"""Seconds an image in ONNX Runtime, by those in torch, until an artifact was measured."""
_VERIFYING = 4.0
"""Seconds a verified image, by those of one in torch, until that was measured: one at a time."""
_EXPORT_S = 2.5


@dataclass(frozen=True, kw_only=True)
class SegmentPace:
    """A segment of the dense network.

    Args:
        forward_s: of an image, lowered.
        match_s: of an image while norms are matched.
        keep_s: to cache an image's state at its entrance.
        state_bytes: of that state, cached.
    """

    forward_s: float
    match_s: float
    keep_s: float
    state_bytes: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of each operation that a search is made of; times that were not measured are None.

    Args:
        segments: of the dense network, in order.
        entrance: index of the segment that each group begins in, by its name.
        batch: images a forward pass.
        load_s: to preprocess a decoded image.
        activation_bytes: by which memory grew while such a batch was classified.
        calibration_s: an image on which the inputs of layers are measured.
        matched_images: images on which norms are matched; 0: none are.
        recovery_s: of the rest of a candidate's recovery, by the group that is varied.
        importance_s: of ranking a group's channels, by its name; empty where no policy does.
        moment_bytes: of the statistics that recovery keeps.
        measured_s: that all this took.
        artifact_s: an image in ONNX Runtime.
        verified_s: an image on which an artifact is compared with its model.
        export_s: of the dense model.
        artifact_bytes: of the file of the dense model.
        session_bytes: by which memory grew as ONNX Runtime ran the dense model.
        decode_s: to read, decode and crop an image, in one process.
    """

    segments: tuple[SegmentPace, ...]
    entrance: Mapping[str, int]
    batch: int
    load_s: float
    activation_bytes: int
    calibration_s: float = 0.0
    matched_images: int = 0
    recovery_s: Mapping[str, float] = field(default_factory=dict)
    importance_s: Mapping[str, float] = field(default_factory=dict)
    moment_bytes: int = 0
    measured_s: float = 0.0
    artifact_s: float | None = None
    verified_s: float | None = None
    export_s: float | None = None
    artifact_bytes: int | None = None
    session_bytes: int | None = None
    decode_s: float = 0.0

    @property
    def image_s(self) -> float:
        """Seconds of an image that the dense network classifies in torch."""
        return self.load_s + sum(segment.forward_s for segment in self.segments)

    @property
    def in_artifact_s(self) -> float:
        """Seconds of an image in ONNX Runtime."""
        return _IN_ARTIFACT * self.image_s if self.artifact_s is None else self.artifact_s

    @property
    def verifying_s(self) -> float:
        """Seconds of an image on which an artifact is verified."""
        return _VERIFYING * self.image_s if self.verified_s is None else self.verified_s

    @property
    def exporting_s(self) -> float:
        """Seconds of an export."""
        return _EXPORT_S if self.export_s is None else self.export_s

    def from_segment(self, start: int, *, matching: bool = False) -> float:
        """Seconds of an image from the entrance of a segment on.

        Args:
            start: index of the segment; 0: from the image itself.
            matching: while norms are matched.
        """
        after = self.segments[start:]
        seconds = sum(segment.match_s if matching else segment.forward_s for segment in after)
        return seconds + (0.0 if start or matching else self.load_s)

    def with_artifact(self, seconds: float) -> Pace:
        """The same with the seconds of an image in ONNX Runtime."""
        return replace(self, artifact_s=seconds)
