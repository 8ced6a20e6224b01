"""Agreement of the native runtime with ONNX Runtime: classes, logits and every spike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.artifact.native_export import NativeArtifact, export_native
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.verification.native import NativeComparison
from primesvt_deploy.verification.spikes import FlipCounter

_BATCH = 8


def agreement(model: SViT, onnx: Path, native: NativeArtifact, images: ImageList) -> dict[str, Any]:
    """Compare both artifacts of a model on the same images.

    They add the first layer's floats in different orders, so that its spikes may differ; nothing
    else may on an image on which those are the same.

    Args:
        model: the quantized model.
        onnx: its ONNX file.
        native: its file of the native engine.
        images: to compare on.
    """
    inputs = images.inputs(0, len(images))
    theirs, ours = OnnxModel(onnx).logits(inputs), NativeModel(native.path).logits(inputs)
    compared, flips, first = 0, [], []
    for size, by_layer in _flips(model, onnx, native, inputs):
        compared += size
        flips.append(by_layer.sum(axis=0))
        first.append(by_layer[0])
    by_image, in_first = np.concatenate(flips), np.concatenate(first)
    return {
        "images": len(images),
        "same_class": int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum()),
        "same_logits": int((theirs == ours).all(axis=1).sum()),
        "median_logit_difference": float(np.median(np.abs(theirs - ours).max(axis=1))),
        "spikes_compared": compared,
        "flipped_spikes": int(by_image.sum()),
        "images_with_flips": int((by_image > 0).sum()),
        "images_with_flips_in_the_float_layer": int((in_first > 0).sum()),
        "flips_where_the_float_layer_agrees": int(by_image[in_first == 0].sum()),
    }


def _flips(
    model: SViT, onnx: Path, native: NativeArtifact, inputs: npt.NDArray[np.float32]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Batch by batch, how many spikes were compared, and how many differ, `[layers, images]`."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "observed.svit"
        observed = export_native(model, file, precision=native.precision, observe_float_layers=True)
        theirs = FlipCounter(model, onnx, 0)
        ours = NativeComparison(model, NativeModel(file), observed, share=False)
        for start in range(0, len(inputs), _BATCH):
            batch = inputs[start : start + _BATCH]
            # Not their `compare`, which is with torch.
            pair = [comparison._observe(batch)[0] for comparison in (theirs, ours)]
            shape = (model.timesteps, len(batch), -1)
            differing = [
                (pair[0][layer].reshape(shape) != pair[1][layer].reshape(shape)).sum(axis=(0, 2))
                for layer in pair[0]
            ]
            yield sum(spikes.size for spikes in pair[0].values()), np.stack(differing)
