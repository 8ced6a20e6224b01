"""Agreement of a bundle on an emulated CPU with the same bundle on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from primesvt_deploy.edge.runtime.check import MAX_DISAGREEMENT
from primesvt_deploy.errors import VerificationError

__all__ = ["ArmOutcome", "CpuOutcome", "NativeOutcome"]


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
        return (
            f"loads in onnxruntime {self.onnxruntime}, top-1 equal on {self.agreeing} of "
            f"{self.images} {self.source}, largest logit difference {self.max_difference:.1g}; "
            f"{integers}; {_counted(self.instructions, self.not_counted)}"
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


@dataclass(frozen=True, kw_only=True)
class NativeOutcome:
    """Outcome of running a bundle's `model.svit` in the native runtime on one emulated CPU.

    Args:
        images: images compared.
        source: which images they are, in words.
        identical: images of which all logits are the same to the last bit as on this machine.
        max_difference: largest difference of a logit from this machine's.
        instructions: instructions an image takes, mean of all images, without start-up; None: not
            counted.
        not_counted: why they were not counted; empty: they were.
    """

    images: int
    source: str
    identical: int
    max_difference: float
    instructions: int | None = None
    not_counted: str = ""

    def __str__(self) -> str:
        """The outcome in one line."""
        return (
            f"native runtime: logits of {self.identical} of {self.images} {self.source} "
            f"bit-identical; {_counted(self.instructions, self.not_counted)}"
        )


@dataclass(frozen=True, kw_only=True)
class CpuOutcome:
    """Outcomes of a bundle's runtimes on one emulated CPU.

    Args:
        cpu: the CPU.
        onnx: that of ONNX Runtime; None: the bundle is not built for it.
        native: that of the native runtime; None: the bundle is not built for it, or it was not run.
        native_not_run: why the native runtime was not run; empty: it was, or is not in the bundle.
    """

    cpu: str
    onnx: ArmOutcome | None = None
    native: NativeOutcome | None = None
    native_not_run: str = ""

    @property
    def instruction_ratio(self) -> float | None:
        """Instructions of ONNX Runtime over those of the native runtime; None: not both counted."""
        counts = [found.instructions if found else None for found in (self.onnx, self.native)]
        if counts[0] is None or counts[1] is None:
            return None
        return counts[0] / counts[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: of ONNX Runtime, and of the native runtime under `native`."""
        ratio = self.instruction_ratio
        return {
            **({"cpu": self.cpu} if self.onnx is None else self.onnx.to_dict()),
            "native": None if self.native is None else vars(self.native).copy(),
            "native_not_run": self.native_not_run,
            "instruction_ratio": None if ratio is None else round(ratio, 3),
        }

    def __str__(self) -> str:
        """The outcomes in one line."""
        parts = [str(found) for found in (self.onnx, self.native) if found is not None]
        if self.native_not_run:
            parts.append(f"native runtime: not run: {self.native_not_run}")
        ratio = self.instruction_ratio
        if ratio is not None:
            parts[-1] += f", {ratio:.2f} times fewer than ONNX Runtime's"
        return "; ".join(parts)

    def require_agreement(self) -> CpuOutcome:
        """This outcome, if both runtimes agree with this machine.

        Raises:
            VerificationError: ONNX Runtime does not (see `ArmOutcome`), or a logit of the native
                runtime differs in any bit.
        """
        if self.onnx is not None:
            self.onnx.require_agreement()
        native = self.native
        if native is not None and native.identical < native.images:
            raise VerificationError(
                f"{self.cpu}: logits of {native.images - native.identical} of {native.images} "
                f"images differ from this machine's in the native runtime (by up to "
                f"{native.max_difference:.1g}), expected the same bits: report it, with the "
                "versions of both C compilers"
            )
        return self


def _counted(instructions: int | None, not_counted: str) -> str:
    if instructions is None:
        return f"instructions not counted: {not_counted}"
    return f"{instructions / 1e6:.1f} million instructions an image"
