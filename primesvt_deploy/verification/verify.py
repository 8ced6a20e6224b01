"""Compare an artifact with its model: logits, and the spikes of every layer at every timestep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.compute.device import CPU, copied_to
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering.metadata import FOLDED_KEY, read_metadata
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.verification.neighbours import changed_by_neighbours, difference_alone
from primesvt_deploy.verification.outcome import Verification
from primesvt_deploy.verification.spikes import (
    FlipCounter,
    SpikeComparison,
    neuron_layers,
    observed,
    spike_value,
)

__all__ = [
    "BATCH",
    "compare_with_model",
    "require_images",
    "verify_artifact",
    "without_folded",
    "without_neurons",
]

BATCH = 16
"""Images that are compared at a time."""


def verify_artifact(
    model: SViT,
    path: Path,
    images: ImageList,
    *,
    threads: int = 0,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> Verification:
    """Compare the ONNX file at `path` with `model` on `images`.

    Logits come from the file as it is; spikes from the same graph with every layer's spikes as
    further outputs.

    Args:
        model: the model, or the quantized one that an integer artifact stands for.
        path: the artifact.
        images: to compare on; a fixed batch leaves out those that do not fill one.
        threads: of ONNX Runtime; 0: its default.
        device: that the model runs on.
        progress: gets each batch.

    Raises:
        VerificationError: no image to compare on, or the file's layers are not the model's.
    """
    require_images(images)
    artifact = OnnxModel(path, threads=threads)
    model = without_folded(model, artifact)
    size = artifact.fixed_batch or min(model.batch_of(BATCH), len(images))
    n = len(images) - len(images) % size if artifact.fixed_batch else len(images)
    if not n:
        raise VerificationError(f"{len(images)} images do not fill the artifact's batch of {size}")
    return compare_with_model(
        model,
        artifact.logits,
        lambda shared: FlipCounter(model, path, threads, share_float_layers=shared, device=device),
        images.first(n),
        size,
        progress,
        device=device,
        fixed_batch=artifact.fixed_batch,
    )


def require_images(images: ImageList) -> None:
    """Refuse to verify on nothing.

    Raises:
        VerificationError: there is no image.
    """
    if not len(images):
        raise VerificationError("there is no image to verify the artifact on: pass --data")


def compare_with_model(
    model: SViT,
    logits: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]],
    comparison: Callable[[bool], SpikeComparison],
    images: ImageList,
    size: int,
    progress: Progress,
    *,
    device: torch.device = CPU,
    fixed_batch: int | None = None,
) -> Verification:
    """Compare an artifact's logits and spikes with its model's.

    Args:
        model: the model, with the neurons that the artifact has.
        logits: runs the artifact as it is.
        comparison: makes a comparison of spikes, with float layers shared or not.
        images: to compare on.
        size: images at a time.
        progress: gets each batch.
        device: that the model runs on.
        fixed_batch: size of the artifact's batches, which also tells who stands beside whom; None:
            any.
    """
    images = images.for_model(model.sample_dtype)
    counter = comparison(False)
    expected, found = [], []
    batches = _Batches(images, size, progress, fixed=fixed_batch is not None)

    def compare(batch: npt.NDArray[Any]) -> None:
        expected.append(counter.compare(batch))
        found.append(logits(batch))

    batches.each(compare, "verification")
    outcome = _summary(np.concatenate(expected), np.concatenate(found), counter)
    some = images.inputs(0, min(len(images), 4))
    outcome = replace(
        outcome,
        changed_by_neighbours=changed_by_neighbours(logits, some, fixed_batch),
        difference_alone=difference_alone(logits, some, fixed_batch),
    )
    if counter.is_integer:
        behind = comparison(True) if outcome.flipped_spikes else None
        flips = 0 if behind is None else _flips(behind, batches)
        exact = model.module.couplings_declared
        outcome = replace(outcome, flips_behind_float_layers=flips, exact=exact)
    # Without an image that has no flip, nothing else says how close logits must be.
    if outcome.failures() or outcome.images_with_flips == len(images):
        return _with_rounding(outcome, model, batches, device)
    return outcome


def without_folded(model: SViT, artifact: OnnxModel) -> SViT:
    """Mark the neurons as unused that the artifact says it has lost: no spikes to compare.

    Returns:
        A copy, which shares the weights and computes the same; `model` where nothing is lost.

    Raises:
        VerificationError: the artifact's metadata is damaged.
    """
    return without_neurons(model, set(read_metadata(artifact.metadata, FOLDED_KEY)))


def without_neurons(model: SViT, names: Collection[str]) -> SViT:
    """Mark neurons as unused, by the names of their layers.

    Returns:
        A copy, which shares the weights and computes the same; `model` where there are no names.
    """
    if not names:
        return model
    shared = (*model.module.parameters(), *model.module.buffers())
    module = copy.deepcopy(model.module, {id(tensor): tensor for tensor in shared})
    reduced = model.with_module(module)
    for name, neuron in neuron_layers(reduced).items():
        neuron.used = neuron.used and name not in names
    return reduced


class _Batches:
    """Images to compare on, in batches that fit the device's memory.

    Args:
        images: as the model takes them.
        size: images at a time.
        progress: gets each batch.
        fixed: the artifact takes no smaller batch.
    """

    def __init__(self, images: ImageList, size: int, progress: Progress, *, fixed: bool) -> None:
        self._images, self._size, self._progress = images, size, progress
        self._fitting = FittingBatches(progress.message, fixed=fixed)

    def each(self, run: Callable[[npt.NDArray[Any]], object], stage: str) -> None:
        """Run every batch, in a stage of this name."""
        images, progress = self._images, self._progress

        def part(start: int, stop: int) -> None:
            run(images.inputs(start, stop))
            progress.advance(stop, len(images))

        progress.stage(stage, 1)
        self._fitting.each(part, len(images), self._size)
        progress.step()


def _flips(comparison: SpikeComparison, batches: _Batches) -> int:
    batches.each(comparison.compare, "verification behind float layers")
    return int(comparison.per_image().sum())


def _with_rounding(
    outcome: Verification, model: SViT, batches: _Batches, device: torch.device
) -> Verification:
    """Add to `outcome` what rounding does in the model itself, against double precision."""
    exact = replace(model, module=copy.deepcopy(model.module).double().to(device))
    rounded = replace(model, module=copied_to(model.module, device))
    units = {name: spike_value(neuron) for name, neuron in neuron_layers(model).items()}
    flips = disagreements = 0
    largest = 0.0

    def compare(inputs: npt.NDArray[Any]) -> None:
        nonlocal flips, disagreements, largest
        batch = torch.from_numpy(inputs)
        logits, spikes = observed(rounded, batch)
        exact_logits, exact_spikes = observed(exact, batch.double())
        largest = max(largest, float((logits - exact_logits).abs().max()))
        for name, fired in spikes.items():
            flips += int(((fired - exact_spikes[name]).abs() > 0.5 * units[name]).sum())
        disagreements += int((logits.argmax(1) != exact_logits.argmax(1)).sum())

    batches.each(compare, "verification against double precision")
    return replace(
        outcome,
        rounding_flips=flips,
        rounding_disagreements=disagreements,
        rounding_difference=largest,
    )


def _summary(
    expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], counter: SpikeComparison
) -> Verification:
    difference = np.abs(expected - found).max(axis=1)
    # NaN would pass every comparison of maxima below.
    difference[~np.isfinite(difference)] = np.inf
    flipped = counter.per_image() > 0
    differs = expected.argmax(axis=1) != found.argmax(axis=1)
    return Verification(
        n=len(expected),
        top1_disagreements=int(differs.sum()),
        disagreeing_images=tuple(int(i) for i in np.flatnonzero(differs)),
        max_difference=float(difference.max()),
        max_difference_without_flips=float(difference[~flipped].max(initial=0.0)),
        images_with_flips=int(flipped.sum()),
        spikes_compared=counter.compared,
        flips=counter.by_layer(np.ones_like(differs)),
        flips_on_disagreements=counter.by_layer(differs),
    )
