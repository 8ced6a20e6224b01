"""Does the artifact compute what the model computes?

A threshold is discontinuous: currents that differ in the last bit can flip a spike, and a flip
moves logits by far more than rounding does. So logits must agree closely on every image without
a flipped spike, and flips themselves must be rare; both are counted, layer by layer and timestep
by timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.families.neuron import Neuron
from primesvt_deploy.model import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.runtime.session import OnnxModel

__all__ = [
    "LOGIT_TOLERANCE",
    "MAX_DISAGREEMENT",
    "MAX_FLIP_SHARE",
    "Verification",
    "verify_artifact",
]

LOGIT_TOLERANCE = 1e-4
"""Largest logit difference on an image without flipped spikes."""
MAX_FLIP_SHARE = 1e-3
"""Largest share of spikes that may differ."""
MAX_DISAGREEMENT = 0.01
"""Largest share of images whose top-1 may differ."""
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Outcome of comparing an artifact with its model on the same images.

    Args:
        n: images.
        top1_disagreements: images on which the two name different classes.
        disagreeing_images: their positions.
        max_difference: largest absolute logit difference.
        max_difference_without_flips: the same over images without a flipped spike.
        images_with_flips: images with any.
        spikes_compared: neuron outputs compared, over images, timesteps and layers.
        flips: flipped spikes of each layer, one count a timestep.
        flips_on_disagreements: the same over the images that disagree in top-1.
    """

    n: int
    top1_disagreements: int
    disagreeing_images: tuple[int, ...]
    max_difference: float
    max_difference_without_flips: float
    images_with_flips: int
    spikes_compared: int
    flips: dict[str, tuple[int, ...]]
    flips_on_disagreements: dict[str, tuple[int, ...]]

    @property
    def flipped_spikes(self) -> int:
        """Flipped spikes in all."""
        return sum(sum(steps) for steps in self.flips.values())

    def failures(self) -> list[str]:
        """What is out of tolerance; empty if the artifact passes."""
        found = []
        if not self.max_difference_without_flips <= LOGIT_TOLERANCE:
            found.append(
                f"logits differ by {self.max_difference_without_flips:.3g} on images without a "
                f"flipped spike (at most {LOGIT_TOLERANCE:g})"
            )
        if self.flipped_spikes > MAX_FLIP_SHARE * self.spikes_compared:
            found.append(
                f"{self.flipped_spikes} of {self.spikes_compared} spikes are flipped "
                f"(at most {MAX_FLIP_SHARE:.1%})"
            )
        if self.top1_disagreements > MAX_DISAGREEMENT * self.n:
            found.append(
                f"top-1 differs on {self.top1_disagreements} of {self.n} images "
                f"(at most {MAX_DISAGREEMENT:.0%})"
            )
        return found

    def require(self) -> Verification:
        """This verification, if it passes.

        Raises:
            VerificationError: it does not; all that is wrong is named.
        """
        found = self.failures()
        if found:
            raise VerificationError(f"the artifact is not its model: {'; '.join(found)}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "passed": not self.failures(),
            "n": self.n,
            "top1_agreement_percent": round(100.0 * (1 - self.top1_disagreements / self.n), 4),
            "top1_disagreements": self.top1_disagreements,
            "disagreeing_images": list(self.disagreeing_images),
            "max_abs_logit_difference": self.max_difference,
            "max_abs_logit_difference_without_flips": self.max_difference_without_flips,
            "logit_tolerance": LOGIT_TOLERANCE,
            "images_with_flips": self.images_with_flips,
            "flipped_spikes": self.flipped_spikes,
            "spikes_compared": self.spikes_compared,
            "flips": _listed(self.flips),
            "flips_on_disagreements": _listed(self.flips_on_disagreements),
        }

    def __str__(self) -> str:
        """One line."""
        return (
            f"top-1 equal on {self.n - self.top1_disagreements} of {self.n} images, "
            f"{self.flipped_spikes} of {self.spikes_compared} spikes flipped, logits within "
            f"{self.max_difference_without_flips:.1g} where none is"
        )


def verify_artifact(
    model: SViT,
    path: Path,
    images: ImageList,
    *,
    threads: int = 0,
    progress: Progress = SILENT,
) -> Verification:
    """Compare the ONNX file at `path` with `model` on `images`.

    Logits come from the file as it is; spikes from the same graph with every layer's spikes as
    further outputs.

    Raises:
        VerificationError: no image to compare on, or the file's layers are not the model's.
    """
    if not len(images):
        raise VerificationError("there is no image to verify the artifact on: pass --data")
    artifact = OnnxModel(path, threads=threads)
    size = artifact.fixed_batch or min(_BATCH, len(images))
    # A fixed batch leaves out what does not fill one.
    n = len(images) - len(images) % size if artifact.fixed_batch else len(images)
    if not n:
        raise VerificationError(f"{len(images)} images do not fill the artifact's batch of {size}")
    counts = _FlipCounter(model, path, threads)
    expected, found = [], []
    progress.stage("verification", -(-n // size))
    for start in range(0, n, size):
        batch = images.inputs(start, min(start + size, n))
        expected.append(counts.compare(batch))
        found.append(artifact.logits(batch))
        progress.step()
    return _summary(np.concatenate(expected), np.concatenate(found), counts)


def _summary(
    expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], counts: _FlipCounter
) -> Verification:
    difference = np.abs(expected - found).max(axis=1)
    # NaN would pass every comparison of maxima below.
    difference[~np.isfinite(difference)] = np.inf
    flipped = counts.per_image() > 0
    differs = expected.argmax(axis=1) != found.argmax(axis=1)
    return Verification(
        n=len(expected),
        top1_disagreements=int(differs.sum()),
        disagreeing_images=tuple(int(i) for i in np.flatnonzero(differs)),
        max_difference=float(difference.max()),
        max_difference_without_flips=float(difference[~flipped].max(initial=0.0)),
        images_with_flips=int(flipped.sum()),
        spikes_compared=counts.compared,
        flips=counts.by_layer(np.ones_like(differs)),
        flips_on_disagreements=counts.by_layer(differs),
    )


class _FlipCounter:
    """Runs model and instrumented graph side by side and counts differing spikes."""

    def __init__(self, model: SViT, path: Path, threads: int) -> None:
        self._model = model
        self._neurons = {
            name.removesuffix(".neuron"): neuron
            for name, neuron in model.module.named_modules()
            if isinstance(neuron, Neuron)
        }
        graph = onnx.load(path)
        produced = {output for node in graph.graph.node for output in node.output}
        self._tensors = {name: _spike_tensor(name, produced, path) for name in self._neurons}
        for tensor in self._tensors.values():
            graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._counts: dict[str, list[npt.NDArray[np.int64]]] = {n: [] for n in self._neurons}
        self.compared = 0

    def compare(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The model's logits of a batch, after its spikes were compared with the graph's."""
        expected: dict[str, npt.NDArray[np.float32]] = {}

        def keep(name: str) -> Any:
            return lambda neuron, _inputs, spikes: expected.update(
                {name: neuron.folded(spikes).numpy()}
            )

        handles = [n.register_forward_hook(keep(name)) for name, n in self._neurons.items()]
        try:
            logits: npt.NDArray[np.float32] = self._model.logits(torch.from_numpy(batch)).numpy()
        finally:
            for handle in handles:
                handle.remove()
        found = self._session.run(
            list(self._tensors.values()), {self._session.get_inputs()[0].name: _time_first(batch)}
        )
        for name, spikes in zip(self._tensors, found, strict=True):
            self.compared += spikes.size
            differing = (expected[name] != spikes).reshape(self._model.timesteps, len(batch), -1)
            self._counts[name].append(differing.sum(axis=2))
        return logits

    def per_image(self) -> npt.NDArray[np.int64]:
        """Flips of each image over all layers and timesteps."""
        total: npt.NDArray[np.int64] = sum(
            (np.concatenate(c, axis=1).sum(axis=0) for c in self._counts.values()),
            start=np.zeros(1, dtype=np.int64),
        )
        return total

    def by_layer(self, chosen: npt.NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
        """Flips of each layer at each timestep, over the chosen images."""
        wanted = chosen.astype(bool)
        return {
            name: tuple(int(n) for n in np.concatenate(c, axis=1)[:, wanted].sum(axis=1))
            for name, c in self._counts.items()
        }


def _time_first(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(batch.swapaxes(0, 1)) if batch.ndim == 5 else batch


def _spike_tensor(layer: str, produced: set[str], path: Path) -> str:
    for name in (f"{layer}.spikes", f"{layer}.spikes.t0"):
        if name in produced:
            return name
    raise VerificationError(f"{path} has no spikes of layer {layer}: it is not this model's")


def _listed(flips: dict[str, Sequence[int]] | dict[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Layers with any flips."""
    return [{"layer": k, "by_timestep": list(v)} for k, v in flips.items() if any(v)]
