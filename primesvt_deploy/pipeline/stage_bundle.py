"""Put a finished build's bundle together in the workspace, from where it is moved to its place."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.artifact.runtime_versions import required_versions
from primesvt_deploy.bundle.write import CHECK_BYTES, BundleParts, write_bundle
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.profiles import LOW_MEMORY, make_profile, session_json
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.variant import Variant
from primesvt_deploy.pruning.policies.base import step_to_dict
from primesvt_deploy.report.html import render_report
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.outcome import LOGIT_TOLERANCE, Verification
from primesvt_deploy.verification.verify import verify_artifact

__all__ = ["StagedArtifact", "stage_artifact", "stage_bundle", "verify_staged"]


@dataclass(frozen=True)
class StagedArtifact:
    """The artifact in the bundle's directory.

    Args:
        directory: where the bundle is put together.
        artifact: `model.onnx` there.
        ort_file: `model.ort` there, if it was requested.
    """

    directory: Path
    artifact: Artifact
    ort_file: Path | None


def stage_artifact(context: BuildContext, chosen: Variant, directory: Path) -> StagedArtifact:
    """Copy the chosen artifact into an empty directory, and write its ORT-format file."""
    shipped = replace(chosen.exported, path=directory / "model.onnx")
    shutil.copyfile(chosen.exported.path, shipped.path)
    ort_file = directory / "model.ort" if context.settings.ort_format else None
    if ort_file is not None:
        write_ort_file(shipped.path, ort_file)
    return StagedArtifact(directory, shipped, ort_file)


def verify_staged(context: BuildContext, chosen: Variant, staged: StagedArtifact) -> Verification:
    """Compare the artifact with the model that it was exported from, on the search split.

    Raises:
        VerificationError: it is not its model.
    """
    size = staged.artifact.batch or 1
    count = -(-context.settings.verify_images // size) * size
    return verify_artifact(
        chosen.quantized,
        staged.artifact.path,
        # However few images decisions rest on, the whole search split is there to verify on.
        context.images.verification.first(count),
        threads=context.settings.threads,
        progress=context.progress,
    ).require()


def stage_bundle(
    context: BuildContext, chosen: Variant, staged: StagedArtifact, manifest: dict[str, Any]
) -> dict[str, Any]:
    """Write all other files of the bundle; the finished manifest.

    Args:
        context: of the build.
        chosen: the variant that is shipped.
        staged: its artifact.
        manifest: see `compose_manifest`.

    Raises:
        VerificationError: the ORT-format file gives other logits than the ONNX file.
    """
    ort_file, path = staged.ort_file, staged.artifact.path
    model = OnnxModel(path, threads=context.settings.threads)
    images, logits = _check_set(context.images.verification, model)
    session = session_json(
        requires=required_versions(path),
        low_memory_file=ort_file.name if ort_file else path.name,
        fold_at_load=staged.artifact.precision is not Precision.INT4,
    )
    if ort_file is not None:
        inputs = context.images.verification.preprocessing.normalise(images)
        _require_same(ort_file, inputs, logits)
    groups = context.search.prunable.groups
    parts = BundleParts(
        model=chosen.model,
        quantized=None if chosen.quantized is chosen.model else chosen.quantized,
        manifest=manifest,
        session=session,
        plan=_plan(chosen, groups),
        ledger=context.search.ledger.path or Path(),
        report=_report(manifest, chosen, groups),
        check_images=images,
        check_logits=logits,
    )
    return write_bundle(staged.directory, parts)


def _plan(chosen: Variant, groups: tuple[Group, ...]) -> dict[str, Any]:
    """Content of `plan.json`."""
    plan = chosen.predicted.plan
    return {
        **plan.to_dict(),
        "widths": plan.widths(groups),
        "policy": _policy(chosen),
        "robustness": [curve.to_dict() for curve in chosen.predicted.curves],
    }


def _policy(chosen: Variant) -> dict[str, Any]:
    """The policy's prediction, and what came of it as measured."""
    refitted = chosen.applied.refitted
    values = {
        **chosen.predicted.to_dict(),
        "met": chosen.budget_met,
        "measured_bytes": chosen.measured.bytes,
        "stopped_by": chosen.stopped_by,
    }
    if refitted is not None:
        values["search_drop_points"] = round(refitted.drop.points, 4)
        values["steps"] = [step_to_dict(step) for step in chosen.steps]
    return values


def _report(manifest: dict[str, Any], chosen: Variant, groups: tuple[Group, ...]) -> str:
    plan = chosen.predicted.plan
    curves = [curve.to_dict() for curve in chosen.predicted.curves]
    if plan.kept and not curves:
        curves = [_unmeasured(group) for group in groups]
    return render_report(manifest, curves, {**_policy(chosen), "widths": plan.widths(groups)})


def _unmeasured(group: Group) -> dict[str, Any]:
    """A layer whose robustness no policy measured, for the report."""
    return {
        "layer": group.name,
        "width": group.width,
        "heads": group.heads,
        "size": group.size,
        "curve": [],
    }


def _require_same(
    ort_file: Path, inputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> None:
    """Refuse an ORT-format file that gives other logits than the file it was made of."""
    profile = make_profile(LOW_MEMORY, ort_file.name)
    found = OnnxModel(ort_file, profile=profile).logits(inputs)
    difference = float(np.median(np.abs(found - expected).max(axis=1)))
    if not difference <= LOGIT_TOLERANCE:
        raise VerificationError(
            f"{ort_file.name} gives other logits than model.onnx (by {difference:.3g}); build "
            "without --ort-format, and please report it"
        )


def _check_set(
    images: ImageList, artifact: OnnxModel
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """A few samples, resized and cropped, and the artifact's logits of them on this machine."""
    steps = images.preprocessing
    count = max(min(CHECK_BYTES // steps.sample_bytes, len(images)), 1)
    kept = np.concatenate([steps.crop_batch(images.pixels(i)[np.newaxis]) for i in range(count)])
    return kept, artifact.logits(steps.normalise(kept))
