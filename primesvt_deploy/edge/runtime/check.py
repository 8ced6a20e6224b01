"""Check an artifact against the outputs that were stored when it was built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import ArrayFile
from .bundle import Bundle, open_bundle
from .errors import BundleError, on_one_line
from .frames import FrameSteps
from .runtimes import open_model
from .steps import InputSteps, steps_from_dict

__all__ = ["CHECK_FILE", "MAX_DISAGREEMENT", "StoredCheck", "check_outputs", "read_stored"]

CHECK_FILE = "check.npz"
"""Name of the file of stored images and logits in a bundle."""

MAX_DISAGREEMENT = 0.05
"""Share of images whose top-1 may differ: a few lie where one flipped spike decides."""

_MOST_BYTES = 2**26
"""Bytes of the stored samples or logits, unless one sample has more."""


@dataclass(frozen=True)
class StoredCheck:
    """Agreement of this machine's outputs with the stored ones.

    Args:
        n: number of images.
        agreeing: number of images with the same top-1.
        median_difference: median over images of the largest logit difference; a few images may
            differ by more, where the last bit of a current flipped a spike.
    """

    n: int
    agreeing: int
    median_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self).copy()

    def __str__(self) -> str:
        """One line."""
        return (
            f"top-1 equal on {self.agreeing} of {self.n} images, "
            f"median logit difference {self.median_difference:.1g}"
        )


def check_outputs(
    bundle: str | os.PathLike[str],
    *,
    threads: int = 0,
    profile: str | None = None,
    runtime: str | None = None,
) -> StoredCheck:
    """Check a bundle's files, then classify its stored images and compare the logits.

    A model that may stop early does so, as where the stored logits were made.

    Args:
        bundle: its directory.
        threads: see `OnnxModel` and `NativeModel`.
        profile: name of the session profile to run them under; None: the bundle's default.
        runtime: `onnx` or `native`; None: ONNX Runtime, if the bundle is built for it.

    Raises:
        BundleError: a file is missing or altered, or too many outputs differ.
    """
    opened = open_bundle(bundle)
    preprocessing = steps_from_dict(opened.manifest["model"]["preprocessing"])
    pixels, expected = read_stored(opened)
    model = open_model(opened, threads=threads, profile=profile, runtime=runtime)
    found = model.logits(preprocessing.normalise(pixels))
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise BundleError(
            f"{bundle}: the model's outputs {list(found.shape)} are not all finite, or not as many "
            f"as the stored ones {list(expected.shape)}: copy or build the bundle again"
        )
    outcome = StoredCheck(
        n=len(expected),
        agreeing=int((found.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        median_difference=float(np.median(np.abs(found - expected).max(axis=1))),
    )
    if outcome.n - outcome.agreeing > MAX_DISAGREEMENT * outcome.n:
        raise BundleError(
            f"{bundle}: this machine's outputs are not the stored ones ({outcome}): "
            "try another version of onnxruntime, or another C compiler"
        )
    return outcome


def read_stored(bundle: Bundle) -> tuple[npt.NDArray[Any], npt.NDArray[np.floating[Any]]]:
    """Samples that a bundle stores, and the logits of them where it was built.

    Returns:
        Samples as `crop_batch` of the bundle's preprocessing gives them, and logits `[n, K]`.

    Raises:
        BundleError: the bundle has none, or they are damaged, or not its model's.
    """
    path = bundle.file(CHECK_FILE)
    steps = steps_from_dict(bundle.manifest["model"]["preprocessing"])
    try:
        with ArrayFile(path) as stored:
            most = max(_MOST_BYTES, 8 * steps.sample_bytes)
            samples, logits = (stored.read(name, most=most) for name in ("images", "logits"))
        _check_stored(samples, logits, steps, len(bundle.manifest["model"]["labels"]))
    except (KeyError, ValueError, OSError, MemoryError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(
            f"{path} is damaged ({on_one_line(said)}): copy or build the bundle again"
        ) from error
    return samples, logits


def _check_stored(
    samples: npt.NDArray[Any], logits: npt.NDArray[Any], steps: InputSteps, classes: int
) -> None:
    """Refuse samples that the model does not take, or logits that are not theirs."""
    shape: tuple[int, ...] = (steps.height, steps.width, steps.channels)
    kinds = "u"
    if isinstance(steps, FrameSteps):
        shape, kinds = steps.shape, "buif"
    if not len(samples) or samples.shape[1:] != shape or samples.dtype.kind not in kinds:
        raise ValueError(f"its images are {samples.dtype} {list(samples.shape)}")
    if logits.shape != (len(samples), classes) or logits.dtype.kind != "f":
        raise ValueError(f"its logits are {logits.dtype} {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise ValueError("its logits are not all finite")
