"""`build`: from a trained SViT to a bundle that stands whole at its place, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.artifact.runtime_versions import required_versions
from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.bundle.write import CHECK_BYTES, BundleParts, write_bundle
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.profiles import LOW_MEMORY, make_profile, session_json
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import check_recovery
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pipeline.manifest import Measured, compose_manifest
from primesvt_deploy.pipeline.prune import PruneResult, question
from primesvt_deploy.pipeline.variant import Candidates, Variant, best
from primesvt_deploy.progress import SILENT, Progress, TimedProgress
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.report.html import render_report
from primesvt_deploy.settings import BuildSettings, Precision
from primesvt_deploy.training.finetune import check_finetune
from primesvt_deploy.verification.verify import LOGIT_TOLERANCE, Verification, verify_artifact

__all__ = ["BuildResult", "build"]

_LATENCY_RUNS, _LATENCY_SECONDS = 100, 60.0
_EVALUATION_BATCH = 16


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Args:
        path: the bundle.
        manifest: what `manifest.json` holds.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def met(self) -> bool:
        """Whether budget and accuracy constraint are met."""
        return bool(self.manifest["constraints"]["met"])


def build(
    model: SViT,
    output: str | os.PathLike[str],
    settings: BuildSettings,
    *,
    data: DataSet | None = None,
    force: bool = False,
    known: KnownFrontier | None = None,
    progress: Progress = SILENT,
) -> BuildResult:
    """Quantize, prune, fine-tune, export, verify and bundle `model`.

    An interrupted build leaves its ledger in `OUTPUT.work/`; the same call resumes from it. A
    budget that no plan meets still gives a bundle, the best found, marked as not meeting it.

    Args:
        model: a trained SViT.
        output: the bundle's directory; must not exist unless `force`.
        settings: budget and constraint.
        data: default: the data bundled with the model.
        force: replace a bundle that stands at `output`.
        known: take the plan from this frontier's candidates; nothing is searched anew, and images,
            seed and recovery are the frontier's.
        progress: told of each step.

    Raises:
        OutputError: the output cannot be written.
        DataError: data that do not fit the model, or too few to fine-tune on.
        SettingsError: a frontier of something else, or timesteps that cannot be.
        VerificationError: the artifact is not its model; nothing is written.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    clock = TimedProgress(progress)
    with Workspace(output, force=force) as workspace:
        splits = data or open_data(model, seed=settings.search.seed)
        if known is not None:
            searched = replace(known.search, max_drop=settings.search.max_drop)
            settings = replace(settings, search=searched)
        _check(model, splits, settings)
        if known is not None:
            ledger = known.ledger(model, splits)
            clock.message(f"plan, policy, recovery, images and seed are those of {known.directory}")
        else:
            ledger = Ledger(workspace.ledger_path(question(model, splits, settings.pruning)))
        if len(ledger) and known is None:
            clock.message(f"resuming: {len(ledger)} candidates are known from {ledger.path}")
        clock.stage("export of the dense model", 1)
        dense = export_onnx(model, workspace.path / "dense.onnx", batch=settings.batch)
        candidates = Candidates(
            model,
            settings,
            splits,
            ledger,
            dense,
            workspace.candidates(),
            clock,
            known=ledger if known else None,
            checkpoints=workspace.checkpoints(),
        )
        variants = [candidates.variant(precision) for precision in settings.precisions]
        staged = workspace.staging()
        manifest = _finish(model, variants, dense, splits, staged, settings, ledger, clock)
        workspace.place(staged)
    return BuildResult(workspace.output, manifest)


def _check(model: SViT, splits: DataSet, settings: BuildSettings) -> None:
    """Refuse, before any work, what would fail after hours of it."""
    if settings.finetune is not None:
        check_finetune(model, splits.train, settings.finetune, splits.name)
    check_recovery(model, splits, settings.search)
    if settings.ship_timesteps is not None:
        model.at_timesteps(settings.ship_timesteps)


def _finish(
    model: SViT,
    variants: Sequence[Variant],
    dense: Artifact,
    splits: DataSet,
    staged: Path,
    settings: BuildSettings,
    ledger: Ledger,
    clock: TimedProgress,
) -> dict[str, Any]:
    """Verify, measure and write everything into the staged bundle; its manifest."""
    chosen = best(variants, smallest=settings.smallest)
    pruned = chosen.pruned
    shipped = replace(chosen.artifact, path=staged / "model.onnx")
    shutil.copyfile(chosen.artifact.path, shipped.path)
    ort_file = write_ort_file(shipped.path, staged / "model.ort") if settings.ort_format else None
    # However few images decisions rest on, the whole search split is there to verify on.
    seen = splits.search.shuffled(settings.search.seed)
    verification = _verified(chosen.twin, shipped, seen, settings, clock)
    batch_size = model.batch_of(_EVALUATION_BATCH)
    differs = chosen.artifact is not dense
    measured = _measure(dense, shipped, differs, splits, settings, batch_size, clock)
    manifest = compose_manifest(
        dense_model=model,
        variants=variants,
        chosen=chosen,
        dense=dense,
        shipped=shipped,
        measured=replace(measured, verification=verification),
        data=splits,
        settings=settings,
        seconds=clock.seconds(),
    )
    images, logits = _check_set(seen, OnnxModel(shipped.path, threads=settings.threads))
    session = session_json(
        requires=required_versions(shipped.path),
        low_memory_file=ort_file.name if ort_file else shipped.path.name,
        fold_at_load=shipped.precision is not Precision.INT4,
    )
    if ort_file is not None:
        _require_same(ort_file, seen.preprocessing.normalise(images), logits)
    parts = BundleParts(
        model=pruned.model,
        twin=None if chosen.twin is pruned.model else chosen.twin,
        manifest=manifest,
        session=session,
        plan=_plan(pruned),
        ledger=ledger.path or Path(),
        report=_report(manifest, pruned),
        check_images=images,
        check_logits=logits,
    )
    return write_bundle(staged, parts)


def _plan(pruned: PruneResult) -> dict[str, Any]:
    """What `plan.json` holds."""
    outcome = pruned.outcome
    return {
        **outcome.plan.to_dict(),
        "widths": outcome.plan.widths(pruned.groups),
        "policy": outcome.to_dict(),
        "robustness": [curve.to_dict() for curve in outcome.curves],
    }


def _report(manifest: dict[str, Any], pruned: PruneResult) -> str:
    outcome = pruned.outcome
    curves = [curve.to_dict() for curve in outcome.curves]
    if outcome.plan.kept and not curves:
        curves = [_unmeasured(group) for group in pruned.groups]
    widths = outcome.plan.widths(pruned.groups)
    return render_report(manifest, curves, {**outcome.to_dict(), "widths": widths})


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


def _verified(
    model: SViT, artifact: Artifact, images: ImageList, settings: BuildSettings, progress: Progress
) -> Verification:
    size = artifact.batch or 1
    count = -(-settings.verify_images // size) * size
    return verify_artifact(
        model, artifact.path, images.first(count), threads=settings.threads, progress=progress
    ).require()


def _measure(
    dense: Artifact,
    shipped: Artifact,
    differs: bool,
    splits: DataSet,
    settings: BuildSettings,
    batch_size: int,
    progress: Progress,
) -> Measured:
    """Held-out accuracy and single-batch latency of both artifacts, in ONNX Runtime."""
    models = {"dense": OnnxModel(dense.path, threads=settings.threads)}
    models["shipped"] = (
        OnnxModel(shipped.path, threads=settings.threads) if differs else models["dense"]
    )
    held_out = splits.held_out
    size = settings.batch or batch_size
    progress.stage("held-out accuracy", -(-len(held_out) // size) * (2 if differs else 1))
    hits = {"dense": artifact_hits(models["dense"], held_out, batch_size=size, progress=progress)}
    hits["shipped"] = (
        artifact_hits(models["shipped"], held_out, batch_size=size, progress=progress)
        if differs
        else hits["dense"]
    )
    progress.stage("latency", 1)
    latency = _latency(models, held_out, settings.batch or 1)
    runs = len(latency["dense"].milliseconds)
    return Measured(hits=hits, latency=latency, runs=runs, verification=None)


def _latency(models: dict[str, OnnxModel], images: ImageList, batch: int) -> dict[str, Latency]:
    inputs = np.repeat(images.inputs(0, 1), batch, axis=0)
    calls = {name: (lambda m=model: m.logits(inputs)) for name, model in models.items()}
    return measure_latency(calls, runs=_LATENCY_RUNS, seconds=_LATENCY_SECONDS)


def _check_set(
    images: ImageList, artifact: OnnxModel
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """A few samples, resized and cropped, and what the artifact makes of them here."""
    steps = images.preprocessing
    count = max(min(CHECK_BYTES // steps.sample_bytes, len(images)), 1)
    kept = np.concatenate([steps.crop_batch(images.pixels(i)[np.newaxis]) for i in range(count)])
    return kept, artifact.logits(steps.normalise(kept))
