"""Does the artifact compute what the model computes?

A threshold is discontinuous: currents that differ in the last bit can flip a spike, and a flip
moves logits by far more than rounding does. So logits must agree closely on every image without
a flipped spike, and flips themselves must be rare; both are counted, layer by layer and timestep
by timestep.

Where flips are not rare, deep networks without training for one, the model is compared with itself
in double precision: rounding that flips as many spikes there explains them here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering.metadata import FOLDED_KEY
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.verification.spikes import FlipCounter, neuron_layers, observed, spike_value

__all__ = [
    "LOGIT_TOLERANCE",
    "MAX_DISAGREEMENT",
    "MAX_FLIP_SHARE",
    "Verification",
    "verify_artifact",
    "without_folded",
]

LOGIT_TOLERANCE = 1e-4
"""Largest logit difference on an image without flipped spikes."""
MAX_FLIP_SHARE = 1e-3
"""Largest share of spikes that may differ."""
MAX_DISAGREEMENT = 0.01
"""Largest share of images whose top-1 may differ."""
ROUNDING_FACTOR = 4.0
"""So many times the flips that rounding makes in the model itself are explained by it: artifact
and model round each in its own way, so about twice as many are usual."""
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
        flips_behind_float_layers: of an integer artifact: flips that are left once the model takes
            over the outputs of the artifact's float layers; integers leave none.
        exact: whether it must be none: in the networks of known families all else is integers.
        rounding_flips: spikes that the model flips against itself in double precision, on the same
            images; None where that was not asked, as flips are rare.
        rounding_disagreements: images on which these two name different classes.
        rounding_difference: largest absolute difference of their logits.
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
    flips_behind_float_layers: int | None = None
    exact: bool = False
    rounding_flips: int | None = None
    rounding_disagreements: int = 0
    rounding_difference: float = 0.0

    @property
    def flipped_spikes(self) -> int:
        """Flipped spikes in all."""
        return sum(sum(steps) for steps in self.flips.values())

    def failures(self) -> list[str]:
        """Findings out of tolerance; empty if the artifact passes."""
        found = []
        widest = ROUNDING_FACTOR * self.rounding_difference
        if self.rounding_flips is not None and not self.max_difference <= max(
            LOGIT_TOLERANCE, widest
        ):
            found.append(
                f"logits differ by {self.max_difference:.3g}, by rounding in the model itself at "
                f"most by {self.rounding_difference:.3g}"
            )
        if self.exact and self.flips_behind_float_layers:
            found.append(
                f"{self.flips_behind_float_layers} spikes are flipped behind the float layers, "
                "where integers leave none"
            )
        if not self.max_difference_without_flips <= LOGIT_TOLERANCE:
            found.append(
                f"logits differ by {self.max_difference_without_flips:.3g} on images without a "
                f"flipped spike (at most {LOGIT_TOLERANCE:g})"
            )
        explained = ROUNDING_FACTOR * (self.rounding_flips or 0)
        if self.flipped_spikes > max(MAX_FLIP_SHARE * self.spikes_compared, explained):
            found.append(
                f"{self.flipped_spikes} of {self.spikes_compared} spikes are flipped "
                f"(at most {MAX_FLIP_SHARE:.1%}{self._explanation()})"
            )
        # A few images more, as which of them rounding meets is chance.
        explained = self.rounding_disagreements + 2 * (self.rounding_disagreements + 1) ** 0.5
        allowed = MAX_DISAGREEMENT * self.n
        if self.rounding_flips is not None:
            allowed = max(allowed, explained)
        if self.top1_disagreements > allowed:
            found.append(
                f"top-1 differs on {self.top1_disagreements} of {self.n} images "
                f"(at most {allowed / self.n:.0%})"
            )
        return found

    def _explanation(self) -> str:
        if self.rounding_flips is None:
            return ""
        return f"; rounding flips {self.rounding_flips} in the model itself"

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
            "flips_behind_real": self.flips_behind_float_layers,
            "rounding_flips": self.rounding_flips,
            "rounding_max_abs_logit_difference": None
            if self.rounding_flips is None
            else self.rounding_difference,
            "flips": _listed(self.flips),
            "flips_on_disagreements": _listed(self.flips_on_disagreements),
        }

    def __str__(self) -> str:
        """One line."""
        behind = (
            ""
            if self.flips_behind_float_layers is None
            else f" ({self.flips_behind_float_layers} behind the float layers)"
        )
        return (
            f"top-1 equal on {self.n - self.top1_disagreements} of {self.n} images, "
            f"{self.flipped_spikes} of {self.spikes_compared} spikes flipped{behind}"
            f"{self._explanation()}, logits within {self.max_difference_without_flips:.1g} "
            "where none is"
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
    model = without_folded(model, artifact)
    size = artifact.fixed_batch or min(model.batch_of(_BATCH), len(images))
    # A fixed batch leaves out what does not fill one.
    n = len(images) - len(images) % size if artifact.fixed_batch else len(images)
    if not n:
        raise VerificationError(f"{len(images)} images do not fill the artifact's batch of {size}")
    counts = FlipCounter(model, path, threads)
    expected, found = [], []
    progress.stage("verification", -(-n // size))
    for start in range(0, n, size):
        batch = images.inputs(start, min(start + size, n))
        expected.append(counts.compare(batch))
        found.append(artifact.logits(batch))
        progress.step()
    outcome = _summary(np.concatenate(expected), np.concatenate(found), counts)
    if counts.of_integers:
        outcome = replace(
            outcome,
            flips_behind_float_layers=_flips_behind_float_layers(
                model, path, images.first(n), size, threads
            )
            if outcome.flipped_spikes
            else 0,
            exact=model.module.couplings_declared,
        )
    # Without an image that has no flip, nothing else says how close logits must be.
    if outcome.failures() or outcome.images_with_flips == n:
        return _with_rounding(outcome, model, images.first(n), size)
    return outcome


def without_folded(model: SViT, artifact: OnnxModel) -> SViT:
    """`model` without the neurons that the artifact says it lost: there are no spikes to compare.

    They count as unused in a copy, which shares the weights and computes the same.
    """
    told = artifact.session.get_modelmeta().custom_metadata_map
    folded = set(json.loads(told.get(FOLDED_KEY, "[]")))
    if not folded:
        return model
    shared = (*model.module.parameters(), *model.module.buffers())
    module = copy.deepcopy(model.module, {id(tensor): tensor for tensor in shared})
    reduced = model.with_module(module)
    for name, neuron in neuron_layers(reduced).items():
        neuron.used = neuron.used and name not in folded
    return reduced


def _flips_behind_float_layers(
    model: SViT, path: Path, images: ImageList, size: int, threads: int
) -> int:
    """Count flips once the model takes over the outputs of the artifact's float layers."""
    counts = FlipCounter(model, path, threads, share_float_layers=True)
    for start in range(0, len(images), size):
        counts.compare(images.inputs(start, min(start + size, len(images))))
    return int(counts.per_image().sum())


def _with_rounding(
    outcome: Verification, model: SViT, images: ImageList, size: int
) -> Verification:
    """`outcome`, and what rounding does in the model itself."""
    exact = replace(model, module=copy.deepcopy(model.module).double())
    units = {name: spike_value(neuron) for name, neuron in neuron_layers(model).items()}
    flips = disagreements = 0
    widest = 0.0
    for start in range(0, len(images), size):
        batch = torch.from_numpy(images.inputs(start, min(start + size, len(images))))
        logits, spikes = observed(model, batch)
        exact_logits, exact_spikes = observed(exact, batch.double())
        widest = max(widest, float((logits - exact_logits).abs().max()))
        for name, fired in spikes.items():
            flips += int(((fired - exact_spikes[name]).abs() > 0.5 * units[name]).sum())
        disagreements += int((logits.argmax(1) != exact_logits.argmax(1)).sum())
    return replace(
        outcome,
        rounding_flips=flips,
        rounding_disagreements=disagreements,
        rounding_difference=widest,
    )


def _summary(
    expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], counts: FlipCounter
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


def _listed(flips: dict[str, Sequence[int]] | dict[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Layers with any flips."""
    return [{"layer": k, "by_timestep": list(v)} for k, v in flips.items() if any(v)]
