"""Check an artifact against the outputs that were stored when it was built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import check_files, read_manifest
from .errors import BundleError
from .runtimes import open_model
from .steps import steps_from_dict

__all__ = ["MAX_DISAGREEMENT", "StoredCheck", "check_outputs"]

MAX_DISAGREEMENT = 0.05
"""Share of images whose top-1 may differ: a few lie where one flipped spike decides."""


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
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    with np.load(Path(bundle) / "check.npz") as stored:
        pixels, expected = stored["images"], stored["logits"]
    preprocessing = steps_from_dict(manifest["model"]["preprocessing"])
    model = open_model(bundle, manifest, threads=threads, profile=profile, runtime=runtime)
    found = model.logits(preprocessing.normalise(pixels))
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
