"""Put a finished build's bundle together in the workspace, from where it is moved to its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.runtime_versions import required_versions
from primesvt_deploy.bundle.write import CHECK_BYTES, BundleParts, write_bundle
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.profiles import LOW_MEMORY, make_profile, session_json
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.pipeline.variant import Variant
from primesvt_deploy.pruning.policies.base import step_to_dict
from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.content import ReportContent, encode_content
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.outcome import LOGIT_TOLERANCE

__all__ = ["stage_bundle"]


def stage_bundle(
    context: BuildContext,
    chosen: Variant,
    staged: StagedArtifact,
    manifest: dict[str, Any],
    content: ReportContent,
    output: str | os.PathLike[str],
) -> dict[str, Any]:
    """Write all other files of the bundle; the finished manifest.

    Args:
        context: of the build.
        chosen: the variant that is shipped.
        staged: its artifact.
        manifest: see `compose_manifest`.
        content: of its report beside the manifest.
        output: where the bundle will stand, for the commands in its report.

    Raises:
        VerificationError: the ORT-format file gives other logits than the ONNX file.
    """
    artifact = staged.model(context.settings.threads)
    samples = context.images.verification.for_model(artifact.sample_dtype)
    images, logits = _check_set(samples, artifact)
    if staged.ort_file is not None:
        _require_same(staged.ort_file, samples.preprocessing.normalise(images), logits)
    plan = _plan(chosen, context.search.prunable.groups)
    plan["ignored"] = list(context.search.settings.ignore)
    parts = BundleParts(
        model=chosen.model,
        quantized=None if chosen.quantized is chosen.model else chosen.quantized,
        stages={stage.model.timesteps: stage.layers for stage in chosen.stages},
        manifest=manifest,
        session=_session(staged),
        plan=plan,
        ledger=context.search.ledger.path or Path(),
        report_content=encode_content(content),
        report=render_report(manifest, plan, content, bundle=os.fspath(output)),
        check_images=images,
        check_logits=logits,
    )
    return write_bundle(staged.directory, parts)


def _session(staged: StagedArtifact) -> dict[str, Any] | None:
    """Content of `session.json`; None: the bundle has no ONNX file."""
    if staged.artifact is None:
        return None
    path, ort_file = staged.artifact.path, staged.ort_file
    return session_json(
        requires=required_versions(path),
        low_memory_file=ort_file.name if ort_file else path.name,
        fold_at_load=staged.artifact.precision is not Precision.INT4,
    )


def _plan(chosen: Variant, groups: tuple[Group, ...]) -> dict[str, Any]:
    """Content of `plan.json`."""
    plan = chosen.predicted.plan
    return {
        **plan.to_dict(),
        "widths": plan.widths(groups),
        "groups": [_whole(group) for group in groups],
        "policy": _policy(chosen),
        "robustness": [curve.to_dict() for curve in chosen.predicted.curves],
    }


def _whole(group: Group) -> dict[str, Any]:
    """A layer as it is before pruning."""
    return {
        "layer": group.name,
        "width": group.width,
        "heads": group.heads,
        "size": group.size,
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


def _require_same(
    ort_file: Path, inputs: npt.NDArray[Any], expected: npt.NDArray[np.float32]
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
    images: ImageList, artifact: OnnxModel | NativeModel
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """A few samples, resized and cropped, and the artifact's logits of them on this machine."""
    steps = images.preprocessing
    count = max(min(CHECK_BYTES // steps.sample_bytes, len(images)), 1)
    kept = images.samples(0, count)
    return kept, artifact.logits(steps.normalise(kept))
