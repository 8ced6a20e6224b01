"""The shipped model in the bundle's directory, and its verification there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from primesvt_deploy.artifact.native_export import NativeArtifact
from primesvt_deploy.artifact.native_source import write_native_source
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.bundle.native_files import copy_engine, copy_mcu_example
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.variant import Variant
from primesvt_deploy.settings import Runtime
from primesvt_deploy.verification.native import verify_stages
from primesvt_deploy.verification.onnx_stages import verify_onnx_stages
from primesvt_deploy.verification.outcome import Verification

__all__ = ["StagedArtifact", "Verified", "stage_artifact", "verify_staged"]


@dataclass(frozen=True, kw_only=True)
class StagedArtifact:
    """The shipped model in the bundle's directory.

    Args:
        directory: where the bundle is put together.
        artifact: `model.onnx` there; None: the bundle has the native runtime alone.
        whole: the ONNX artifact of all timesteps, which is elsewhere.
        ort_file: `model.ort` there, if it was requested.
        native: `model.svit` there, if it was requested.
        is_dense: whether it is the dense float32 model as it was.
    """

    directory: Path
    artifact: Artifact | None
    whole: Artifact
    ort_file: Path | None
    native: NativeArtifact | None
    is_dense: bool

    @property
    def files(self) -> dict[str, Path]:
        """Files of the `shipped` model, and of the `native` runtime where there are both."""
        names = iter(("shipped", "native"))
        both = (self.artifact, self.native)
        return {next(names): artifact.path for artifact in both if artifact is not None}

    def model(self, threads: int) -> OnnxModel | NativeModel:
        """The shipped model, loaded: the ONNX artifact, or, without one, the native one."""
        if self.artifact is not None:
            return OnnxModel(self.artifact.path, threads=threads)
        assert self.native is not None
        return NativeModel(self.native.path)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Verifications of what a bundle carries.

    Args:
        artifact: of the ONNX artifact; None: there is none.
        native: of the native runtime's file; None: there is none.
        stages: of the stages before the whole model, by runtime.
    """

    artifact: Verification | None
    native: Verification | None
    stages: Mapping[Runtime, Sequence[Verification]]


def stage_artifact(
    context: BuildContext, dense: Artifact, chosen: Variant, directory: Path
) -> StagedArtifact:
    """Copy the chosen model's files into an empty directory.

    Args:
        context: of the build.
        dense: the dense float32 artifact.
        chosen: the variant that is shipped.
        directory: where the bundle is put together.
    """
    runtime = context.settings.runtime
    shipped: Artifact | None = None
    native: NativeArtifact | None = None
    ort_file: Path | None = None
    if runtime.has_onnx:
        made = chosen.joined or chosen.exported
        shipped = replace(made, path=directory / "model.onnx")
        shutil.copyfile(made.path, shipped.path)
        if context.settings.ort_format:
            ort_file = directory / "model.ort"
            write_ort_file(shipped.path, ort_file)
    if chosen.native is not None:
        native = replace(chosen.native, path=directory / "model.svit")
        shutil.copyfile(chosen.native.path, native.path)
        copy_engine(directory / "native")
        if context.settings.mcu:
            copy_mcu_example(directory / "native" / "mcu")
            content = native.path.read_bytes()
            write_native_source(directory / "native", content, labels=context.model.labels)
        # One a line, for `classify`.
        labels = "".join(f"{' '.join(label.split())}\n" for label in context.model.labels)
        (directory / "labels.txt").write_text(labels, encoding="utf-8")
    return StagedArtifact(
        directory=directory,
        artifact=shipped,
        whole=chosen.exported,
        ort_file=ort_file,
        native=native,
        is_dense=chosen.exported is dense,
    )


def verify_staged(context: BuildContext, chosen: Variant, staged: StagedArtifact) -> Verified:
    """Compare what is shipped with the model that it was exported from, on the search split.

    Raises:
        VerificationError: it is not its model.
    """
    # However few images decisions rest on, the whole search split is there to verify on.
    images, wanted = context.images.verification, context.settings.verify_images
    progress = context.progress
    models = [*(stage.model for stage in chosen.stages), chosen.quantized]
    onnx: Verification | None = None
    native: Verification | None = None
    stages: dict[Runtime, Sequence[Verification]] = {}
    if staged.artifact is not None:
        size = staged.artifact.batch or 1
        *stages[Runtime.ONNX], onnx = verify_onnx_stages(
            models,
            staged.artifact.path,
            images.first(-(-wanted // size) * size),
            threads=context.settings.threads,
            device=context.device,
            progress=progress,
        )
    if staged.native is not None:
        *stages[Runtime.NATIVE], native = verify_stages(
            models,
            staged.native.path,
            images.first(wanted),
            precision=staged.native.precision,
            device=context.device,
            progress=progress,
        )
    return Verified(artifact=onnx, native=native, stages=stages)
