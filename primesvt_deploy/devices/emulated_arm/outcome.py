"""Agreement of an artifact on an emulated CPU with the same artifact on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from primesvt_deploy.edge.runtime.check import MAX_DISAGREEMENT
from primesvt_deploy.errors import VerificationError

__all__ = ["ArmOutcome"]


@dataclass(frozen=True, kw_only=True)
class ArmOutcome:
    """Outcome of running a bundle's artifact on one emulated CPU.

    Args:
        cpu: the CPU.
        onnxruntime: its version in the sandbox.
        images: images compared.
        source: which images they are, in words.
        agreeing: images with the same top-1 as on this machine.
        max_difference: largest difference of a logit from this machine's.
        integer_images: images on which the integer part was compared.
        spike_tensors: spike tensors of the integer part, each over all of those images.
        identical_tensors: spike tensors that are the same to the last bit.
        not_compared: why the integer part was not compared; empty: it was.
        instructions: instructions an image takes on one thread, without start-up; None: not
            counted.
        not_counted: why they were not counted; empty: they were.
    """

    cpu: str
    onnxruntime: str
    images: int
    source: str
    agreeing: int
    max_difference: float
    integer_images: int = 0
    spike_tensors: int = 0
    identical_tensors: int = 0
    not_compared: str = ""
    instructions: int | None = None
    not_counted: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an outcome exists only where the artifact loads."""
        return {"loads": True, **vars(self)}

    def __str__(self) -> str:
        """The outcome in one line."""
        integers = self.not_compared or (
            f"integer part: {self.identical_tensors} of {self.spike_tensors} spike tensors "
            f"bit-identical on {self.integer_images} images"
        )
        counted = (
            f"instructions not counted: {self.not_counted}"
            if self.instructions is None
            else f"{self.instructions / 1e6:.1f} million instructions an image"
        )
        return (
            f"loads in onnxruntime {self.onnxruntime}, top-1 equal on {self.agreeing} of "
            f"{self.images} {self.source}, largest logit difference {self.max_difference:.1g}; "
            f"{integers}; {counted}"
        )

    def require_agreement(self) -> ArmOutcome:
        """This outcome, if it agrees with this machine.

        Raises:
            VerificationError: top-1 of too many images differs, or a spike tensor does.
        """
        if self.images - self.agreeing > MAX_DISAGREEMENT * self.images:
            raise VerificationError(
                f"{self.cpu}: top-1 differs on {self.images - self.agreeing} of {self.images} "
                f"images from this machine's: onnxruntime {self.onnxruntime} computes something "
                "else there; try another version"
            )
        if self.identical_tensors < self.spike_tensors:
            raise VerificationError(
                f"{self.cpu}: {self.spike_tensors - self.identical_tensors} of "
                f"{self.spike_tensors} spike tensors of the integer part differ from this "
                f"machine's: onnxruntime {self.onnxruntime} computes integers wrongly there or here"
            )
        return self
