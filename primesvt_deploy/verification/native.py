"""Compare a `model.svit`, run by the native engine, with its model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.artifact.native_export import NativeArtifact, export_native
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering.native.stores import View
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.outcome import Verification
from primesvt_deploy.verification.spikes import (
    SpikeComparison,
    can_be_shared,
    neuron_layers,
    spike_value,
)
from primesvt_deploy.verification.verify import (
    BATCH,
    compare_with_model,
    require_images,
    without_neurons,
)

__all__ = ["NativeComparison", "verify_native", "verify_stages"]


_STOPS = 64
"""Images whose runs are followed from stage to stage."""


def verify_native(
    model: SViT,
    path: Path,
    images: ImageList,
    *,
    precision: Precision,
    stage: int | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> Verification:
    """Compare the `model.svit` at `path` with `model` on `images`.

    Logits come from the file as it is; spikes from the same program with the outputs of float
    layers kept, which has to give the same logits to the last bit.

    Args:
        model: the quantized model that the file stands for.
        path: the file.
        images: to compare on.
        precision: of its weights.
        stage: of the file, that the model is; None: it has only one.
        device: that the model runs on.
        progress: gets each batch.

    Raises:
        VerificationError: no image to compare on, or the file is of another model.
        BundleError: the engine cannot be compiled here, or refuses the file.
    """
    require_images(images)
    shipped = NativeModel(path, stage=stage)
    with tempfile.TemporaryDirectory() as directory:
        instrumented = export_native(
            model, Path(directory) / "observed.svit", precision=precision, observe_float_layers=True
        )
        folded = neuron_layers(model).keys() - instrumented.observed.keys()
        reduced = without_neurons(model, folded)
        observed = NativeModel(instrumented.path)

        def logits(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            found = shipped.logits(batch)
            if not np.array_equal(found, observed.logits(batch)):
                raise VerificationError(f"{path} gives other logits than the model's own program")
            return found

        return compare_with_model(
            reduced,
            logits,
            lambda share: NativeComparison(
                reduced, observed, instrumented, share=share, device=device
            ),
            images,
            min(model.batch_of(BATCH), len(images)),
            progress,
            device=device,
        )


def verify_stages(
    models: Sequence[SViT],
    path: Path,
    images: ImageList,
    *,
    precision: Precision,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> list[Verification]:
    """Compare every stage of the `model.svit` at `path` with its model, and where runs of it stop.

    Args:
        models: the quantized model that each stage stands for, the whole one last.
        path: the file.
        images: to compare on.
        precision: of its weights.
        device: that the models run on.
        progress: gets each batch.

    Raises:
        VerificationError: no image to compare on, the file is of other models, or a run of it stops
            at another stage than the margins say.
        BundleError: the engine cannot be compiled here, or refuses the file.
    """
    whole = NativeModel(path)
    if len(whole.stages) != len(models):
        raise VerificationError(
            f"{path} has {len(whole.stages)} stages, expected {len(models)}: build it again"
        )
    found = [
        verify_native(
            model,
            path,
            images,
            precision=precision,
            stage=number,
            device=device,
            progress=progress,
        )
        for number, model in enumerate(models)
    ]
    if len(models) > 1:
        _require_stops(whole, path, images)
    return [verification.require() for verification in found]


def _require_stops(model: NativeModel, path: Path, images: ImageList) -> None:
    """Refuse a file whose runs give other logits than the first stage that is sure."""
    images = images.for_model(model.sample_dtype)
    inputs = images.inputs(0, min(len(images), _STOPS))
    expected, left = np.zeros((len(inputs), model.classes), np.float32), np.arange(len(inputs))
    steps = np.zeros(len(inputs), np.int32)
    for number, stage in enumerate(model.stages):
        logits = NativeModel(path, stage=number).logits(inputs[left])
        expected[left], steps[left] = logits, stage.timesteps
        left = left[~(margins_of(logits) >= stage.margin)]
        if not len(left):
            break
    found, taken = model.logits_and_timesteps(inputs)
    if not (np.array_equal(found, expected) and np.array_equal(taken, steps)):
        raise VerificationError(f"{path} stops at other stages than its margins say")


class NativeComparison(SpikeComparison):
    """Compares a model with its program in the native engine.

    Args:
        model: the quantized model.
        engine: runs the program, with the outputs of float layers kept.
        artifact: how the program stores its tensors.
        share: have the model take over the outputs of the float layers, so that only what is
            behind them is compared.
        device: that the model runs on.
    """

    is_integer = True

    def __init__(
        self,
        model: SViT,
        engine: NativeModel,
        artifact: NativeArtifact,
        *,
        share: bool,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(model, device)
        self._engine = engine
        self._stored: Mapping[str, View] = artifact.observed
        self._shared = [
            name
            for name in artifact.observed
            if share and name not in self._neurons and can_be_shared(name, model.module)
        ]

    def _observe(
        self, batch: npt.NDArray[Any]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, torch.Tensor]]:
        if batch.dtype == np.uint8:
            batch = batch.transpose(0, 2, 3, 1)
        outputs = [self._engine.observe(sample) for sample in batch]
        found = {
            name: self._ordered(name, outputs) * np.float32(spike_value(neuron))
            for name, neuron in self._neurons.items()
        }
        given = {name: torch.from_numpy(self._ordered(name, outputs)) for name in self._shared}
        return found, given

    def _ordered(
        self, name: str, outputs: list[dict[str, npt.NDArray[np.generic]]]
    ) -> npt.NDArray[np.float32]:
        """A layer's outputs in the order of the torch module, `[T, N, elements]`."""
        places = self._stored[name].step_places().reshape(-1)
        samples = [output[name].reshape(len(output[name]), -1)[:, places] for output in outputs]
        return np.stack(samples, axis=1).astype(np.float32)
