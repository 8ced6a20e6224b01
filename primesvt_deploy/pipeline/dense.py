"""The dense model, exported once: every variant is compared with it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.data.pixel_cache import read_ahead
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pipeline.budget import Budget, budget_of, counted_bytes
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.cost_artifact import artifact_seconds
from primesvt_deploy.pruning.plan import Plan

__all__ = ["DenseModel", "export_dense"]

_EVALUATION_BATCH = 16


class DenseModel:
    """The dense float32 model as an artifact, and what it gets right.

    Args:
        context: of the build.
        artifact: its export.
        bytes: of what the budget counts.
        budget: of the build, which may be a share of these bytes.
    """

    def __init__(
        self, context: BuildContext, artifact: Artifact, bytes: int, budget: Budget
    ) -> None:
        self.artifact, self.bytes, self.budget = artifact, bytes, budget
        self._context = context

    def drop(self, artifact: Artifact) -> PairedDrop:
        """Top-1 that an artifact loses against it on the search images."""
        dense = self._hits
        stage = f"search accuracy, {artifact.precision}"
        return PairedDrop.of(dense, self._hits_of(artifact, stage))

    @property
    def accuracy(self) -> Accuracy | None:
        """Top-1 on the search images that it was evaluated on; None where there are none yet."""
        if "_hits" in self.__dict__:
            return Accuracy.of(self._hits)
        search = self._context.search
        cached = search.ledger.find(Plan().digest, len(self._context.images.search))
        return cached.accuracy if cached else None

    @cached_property
    def seconds_an_image(self) -> float:
        """Seconds of an image in ONNX Runtime, of two batches."""
        return artifact_seconds(
            self.artifact, self._context.images.search, self._context.settings.threads
        )

    @cached_property
    def _hits(self) -> npt.NDArray[np.bool_]:
        images = self._context.images.search
        cached = self._context.search.ledger.hits(Plan().digest, len(images))
        if len(cached) == len(images):
            return cached
        hits = self._hits_of(self.artifact, "search accuracy, dense")
        self._context.search.doubt(Accuracy.of(hits))
        return hits

    def _hits_of(self, artifact: Artifact, stage: str) -> npt.NDArray[np.bool_]:
        context = self._context
        images = context.images.search
        size = artifact.batch or context.model.batch_of(_EVALUATION_BATCH)
        read_ahead(images, context.progress)
        context.progress.stage(stage, 1)
        model = OnnxModel(artifact.path, threads=context.settings.threads)
        return artifact_hits(model, images, batch_size=size, progress=context.progress)


def export_dense(context: BuildContext, path: Path) -> DenseModel:
    """Export the dense model and find what the budget is.

    Args:
        context: of the build.
        path: of the file.

    Raises:
        ExportError: the model cannot be exported.
        SettingsError: a budget that no model can meet.
    """
    context.progress.stage("export of the dense model", 1)
    artifact = export_onnx(context.model, path, batch=context.settings.batch)
    context.progress.step(f"{millions(artifact.bytes)[0]} MB")
    counted = counted_bytes(context.settings, context.model, artifact)
    return DenseModel(context, artifact, counted, budget_of(context.settings, counted, artifact))
