"""Classify image files with a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import open_bundle
from .errors import BundleError
from .runtimes import open_model
from .steps import prepare_file, steps_from_dict

__all__ = ["Classifier", "Prediction"]


@dataclass(frozen=True, repr=False)
class Prediction:
    """Classification of one image.

    Args:
        image: the file.
        top: labels and softmax probabilities, most probable first.
        logits: all K, in the order of the labels.
        timesteps: T after which they were final, of a model that may stop early; None of others.
    """

    image: str
    top: tuple[tuple[str, float], ...]
    logits: tuple[float, ...]
    timesteps: int | None = None

    def __repr__(self) -> str:
        """Such as `Prediction(photo.jpg: cat 92.1%, dog 6.0%, fox 0.4%)`."""
        shown = ", ".join(f"{label} {probability:.1%}" for label, probability in self.top)
        stopped = "" if self.timesteps is None else f", T = {self.timesteps}"
        return f"Prediction({self.image}: {shown}{stopped})"

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.top[0][0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "image": self.image,
            "label": self.label,
            "top": [{"label": label, "probability": p} for label, p in self.top],
            "logits": list(self.logits),
            **({} if self.timesteps is None else {"timesteps": self.timesteps}),
        }


class Classifier:
    """A bundle, checked and ready to classify.

    Args:
        bundle: its directory.
        threads: see `OnnxModel` and `NativeModel`.
        profile: name of a session profile of ONNX Runtime, `latency` or `low-memory`; None: the
            bundle's default.
        runtime: `onnx` or `native`; None: ONNX Runtime, if the bundle is built for it.

    Raises:
        BundleError: the bundle is incomplete, altered, or cannot be loaded.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        threads: int = 0,
        profile: str | None = None,
        runtime: str | None = None,
    ) -> None:
        opened = open_bundle(bundle)
        self.manifest = opened.manifest
        self.labels: tuple[str, ...] = tuple(self.manifest["model"]["labels"])
        self.preprocessing = steps_from_dict(self.manifest["model"]["preprocessing"])
        self.model = open_model(opened, threads=threads, profile=profile, runtime=runtime)

    def __repr__(self) -> str:
        """Such as `Classifier(mine: 10 classes, constraints met)`."""
        # The verdict knows of held-out images; bundles of earlier versions have none.
        verdict = self.manifest["constraints"].get("verdict", "met")
        met = verdict if self.meets_constraints else "NOT met"
        classes = f"{len(self.labels)} classes"
        return f"Classifier({self.manifest['model']['name']}: {classes}, constraints {met})"

    @property
    def meets_constraints(self) -> bool:
        """Whether the bundle was built within its budget and accuracy constraint."""
        return bool(self.manifest["constraints"]["met"])

    def classify(
        self, paths: Iterable[str | os.PathLike[str]], *, top: int = 3
    ) -> Iterator[Prediction]:
        """Classify image files one by one.

        Args:
            paths: image files of any size (see `images.decode_image`), turned as their EXIF
                orientation says; for a model of event frames `.npy` or `.npz` files.
            top: how many labels to report, most probable first.

        Returns:
            A prediction for each file; a file is read when its prediction is requested.

        Raises:
            ImageError: a file cannot be read, or Pillow is not installed.
            DeployError: a file holds something that does not fit the network.
        """
        for path in paths:
            sample = prepare_file(self.preprocessing, path)
            logits, timesteps = self._run(sample[np.newaxis])
            yield Prediction(
                os.fspath(path), self._top(logits, top), tuple(map(float, logits)), timesteps
            )

    def _run(self, sample: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int | None]:
        """Logits of one sample, and T where that differs from sample to sample."""
        if len(getattr(self.model, "stages", ())) < 2:
            return self._checked(self.model.logits(sample)), None
        logits, timesteps = self.model.logits_and_timesteps(sample)  # type: ignore[attr-defined]
        return self._checked(logits), int(timesteps[0])

    def _checked(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The logits of the only sample, which are finite and one for each label."""
        found: npt.NDArray[np.float32] = logits[0]
        if found.shape != (len(self.labels),) or not np.isfinite(found).all():
            raise BundleError(
                f"the model gives {found.size} logits, not all of them finite, expected "
                f"{len(self.labels)} numbers: build the bundle again"
            )
        return found

    def _top(self, logits: npt.NDArray[np.float32], top: int) -> tuple[tuple[str, float], ...]:
        wide = logits.astype(np.float64)
        shares = np.exp(wide - wide.max())
        shares /= shares.sum()
        order = np.argsort(-shares, kind="stable")[:top]
        return tuple((self.labels[i], float(shares[i])) for i in order)
