"""`build`: from a trained SViT to a bundle that stands whole at its place, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from primesvt_deploy.bundle.signature import SigningKey, sign_bundle
from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.errors import ModelError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead_of_build import build_ahead
from primesvt_deploy.pipeline.context import BuildContext, SearchContext
from primesvt_deploy.pipeline.dense import export_dense
from primesvt_deploy.pipeline.dense_accuracy import check_record
from primesvt_deploy.pipeline.evaluation import evaluate
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pipeline.image_sets import decoded_once, search_key
from primesvt_deploy.pipeline.manifest import Findings, compose_manifest
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.pipeline.outlook import Outlook, outlook_of
from primesvt_deploy.pipeline.report_content import gather_content
from primesvt_deploy.pipeline.stage_bundle import stage_bundle
from primesvt_deploy.pipeline.staged import stage_artifact, verify_staged
from primesvt_deploy.pipeline.stop_early import stop_early
from primesvt_deploy.pipeline.summaries import build_summary
from primesvt_deploy.pipeline.variant import VariantFiles, best, make_variant
from primesvt_deploy.progress import AUTOMATIC, Progress, TimedProgress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.quantization.pixel_input import take_pixels
from primesvt_deploy.quantization.quantize import lower_for_quantization
from primesvt_deploy.settings import BuildSettings
from primesvt_deploy.summary import Shown, Summary
from primesvt_deploy.training.finetune import check_finetune

__all__ = ["BuildResult", "build", "check_build"]


@dataclass(frozen=True, repr=False)
class BuildResult(Shown):
    """A finished build.

    Args:
        path: the bundle.
        manifest: the content of its `manifest.json`.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def met(self) -> bool:
        """Whether budget and accuracy constraint are met."""
        return bool(self.manifest["constraints"]["met"])

    def _summary(self) -> Summary:
        return build_summary(self.path, self.manifest)


@drawn_by_default
def build(
    model: SViT,
    output: str | os.PathLike[str],
    settings: BuildSettings,
    *,
    data: DataSet | None = None,
    force: bool = False,
    known: KnownFrontier | None = None,
    sign: SigningKey | None = None,
    progress: Progress = AUTOMATIC,
    foresee: Callable[[Outlook], None] | None = None,
    command: str | None = None,
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
        sign: sign the bundle with this key (see `load_signing_key`).
        progress: gets each step; default: a bar on a terminal or in a notebook, elsewhere nothing;
            `SILENT`: nothing.
        command: that asks for the build, for its report.
        foresee: gets what sizes alone tell, before the first long stage; nothing where they do not.

    Raises:
        OutputError: the output cannot be written.
        DataError: data that do not fit the model, or too few to fine-tune on.
        SettingsError: a frontier of something else, timesteps that cannot be, a first layer that
            cannot take pixels, or a device that is not there.
        VerificationError: the artifact is not its model; nothing is written.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    clock = TimedProgress(progress)
    with Workspace(output, force=force) as workspace:
        context = _context(model, settings, workspace, data=data, known=known, progress=clock)
        context = replace(context, command=command)
        with context.search:
            outlook = None if foresee is None else outlook_of(context.search, settings)
            if foresee is not None and outlook is not None:
                foresee(outlook)
            check_record(context.search)
            dense = export_dense(context, workspace.path / "dense.onnx")
            files = VariantFiles(workspace.candidates(), workspace.checkpoints())
            variants = [make_variant(context, dense, each, files) for each in settings.precisions]
            chosen = best(variants, smallest=settings.smallest)
            chosen = stop_early(context, chosen, files.artifacts)
            staged = stage_artifact(context, dense.artifact, chosen, workspace.staging())
            verified = verify_staged(context, chosen, staged)
            evaluation = evaluate(context, dense.artifact, staged)
            findings = Findings(dense.artifact, variants, chosen, verified, evaluation)
            content = gather_content(context, findings, staged)
            composed = compose_manifest(context, findings, seconds=clock.seconds())
            manifest = stage_bundle(context, chosen, staged, composed, content, output)
            if sign is not None:
                sign_bundle(staged.directory, sign)
            workspace.place(staged.directory)
    return BuildResult(workspace.output, manifest)


def _context(
    model: SViT,
    settings: BuildSettings,
    workspace: Workspace,
    *,
    data: DataSet | None,
    known: KnownFrontier | None,
    progress: Progress,
) -> BuildContext:
    """Everything that the stages rest on; whatever would fail after hours of work fails here."""
    check_build(model, settings)
    splits = data or open_data(model, seed=settings.search.seed)
    if known is not None:
        searched = replace(known.search, max_drop=settings.search.max_drop)
        settings = replace(settings, search=searched)
    if settings.finetune is not None:
        check_finetune(
            model, splits.train, settings.finetune, splits.name, compute=settings.compute
        )
    if known is not None:
        ledger = known.ledger(model, splits)
        progress.message(f"plan, policy, recovery, images and seed are those of {known.directory}")
    else:
        key = search_key(model, splits, settings.pruning)
        ledger = Ledger(workspace.ledger_path(key))
        if len(ledger):
            progress.message(f"resuming: {len(ledger)} candidates are cached in {ledger.path}")
    splits = decoded_once(
        splits,
        settings.pruning,
        workspace.decoded(),
        progress,
        held_out=settings.held_out_images,
    )

    def context(search: SearchContext) -> BuildContext:
        return BuildContext(settings=settings, search=search, from_ledger=known is not None)

    return context(
        unjudged_context(
            model,
            settings.pruning,
            splits,
            ledger=ledger,
            compute=settings.compute,
            progress=progress,
            ahead=lambda search: build_ahead(context(search)),
        )
    )


def check_build(model: SViT, settings: BuildSettings) -> None:
    """Refuse what the model cannot do, before data are read.

    Args:
        model: the dense SViT.
        settings: of the build.

    Raises:
        SettingsError: timesteps that cannot be, or a first layer that cannot take pixels.
    """
    if settings.ship_timesteps is not None:
        model.at_timesteps(settings.ship_timesteps)
    if settings.anytime is not None:
        if model.timesteps == 1:
            raise SettingsError(
                f"{model.name} runs for a single timestep: nothing can stop earlier; leave "
                "--anytime out"
            )
        try:
            model.at_timesteps(1)
        except ModelError as error:
            raise SettingsError(
                f"{error}, so that no run stops early; leave --anytime out"
            ) from error
    if settings.integer_input:
        take_pixels(model, lower_for_quantization(model))
