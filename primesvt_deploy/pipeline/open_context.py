"""Open the context of a search: whatever would fail after hours fails here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from primesvt_deploy.compute.device import use_exact_arithmetic
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.dense_accuracy import check_record
from primesvt_deploy.pipeline.image_sets import image_sets
from primesvt_deploy.progress import SILENT, PlannedStage, Progress
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.ignored_layers import idle_patterns, without_ignored
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import HEAD, ComputeSettings, SearchSettings

__all__ = ["check_recovery", "search_context", "unjudged_context"]


def search_context(
    model: SViT,
    settings: SearchSettings,
    data: DataSet | None,
    *,
    ledger: Ledger | None = None,
    compute: ComputeSettings = ComputeSettings(),
    progress: Progress = SILENT,
    ahead: Callable[[SearchContext], Sequence[PlannedStage]] | None = None,
) -> SearchContext:
    """The context of a search, once the model is known to be what its file says.

    Args:
        model: a trained SViT.
        settings: how candidates are made and judged.
        data: None: sizes alone decide.
        ledger: candidates evaluated before; default: none, and none are kept on disk.
        compute: where it computes.
        progress: gets each step.
        ahead: the stages that will follow; None: it is not known.

    Raises:
        DataError, SettingsError: see `unjudged_context`.
        ModelError: with these data the model is far from the accuracy that its file records.
    """
    context = unjudged_context(
        model, settings, data, ledger=ledger, compute=compute, progress=progress, ahead=ahead
    )
    check_record(context)
    return context


def unjudged_context(
    model: SViT,
    settings: SearchSettings,
    data: DataSet | None,
    *,
    ledger: Ledger | None = None,
    compute: ComputeSettings = ComputeSettings(),
    progress: Progress = SILENT,
    ahead: Callable[[SearchContext], Sequence[PlannedStage]] | None = None,
) -> SearchContext:
    """The context of a search, before anything is evaluated.

    Args:
        model: a trained SViT.
        settings: how candidates are made and judged.
        data: None: sizes alone decide.
        ledger: candidates evaluated before; default: none, and none are kept on disk.
        compute: where it computes.
        progress: gets each step.
        ahead: the stages that will follow; None: it is not known.

    Raises:
        DataError: recovery needs more images than the data have.
        SettingsError: recovery that the model does not allow, no such layer to ignore, or a device
            that is not there.
    """
    use_exact_arithmetic()
    if data is not None:
        check_recovery(model, data, settings)
    if isinstance(model.module, AdoptedNetwork):
        progress.stage("trying which channels can leave", 1)
    whole = prunable_groups(model)
    found = without_ignored(model.module, whole, settings.ignore)
    for pattern in idle_patterns(model.module, whole, settings.ignore):
        progress.message(
            f"note: --ignore {pattern} changes nothing: no channels could leave what it names"
        )
    context = SearchContext(
        model=model,
        settings=settings,
        prunable=found,
        images=None if data is None else image_sets(data, settings),
        ledger=Ledger() if ledger is None else ledger,
        compute=compute,
        progress=progress,
    )
    _ = context.device  # refused here, before any work
    context.start_workers()
    _tell_of_ledger(context)
    if ahead is not None:
        progress.plan(ahead(context))
    return context


def _tell_of_ledger(context: SearchContext) -> None:
    """Say what of a ledger cannot be read, and what was judged on another kind of device."""
    progress, here = context.progress, context.kind
    if context.ledger.dropped:
        lines = "1 line" if context.ledger.dropped == 1 else f"{context.ledger.dropped} lines"
        verbs = ("is", "are")[context.ledger.dropped > 1]
        progress.message(f"note: {lines} of the ledger cannot be read and {verbs} evaluated anew")
    others = sorted(context.ledger.devices - {here})
    if others:
        progress.message(
            f"note: candidates of the ledger were judged on {' and '.join(others)}, this search "
            f"computes on {here}: some spikes flip by rounding, so that they would differ a little"
        )


def check_recovery(model: SViT, data: DataSet, settings: SearchSettings) -> None:
    """Refuse, before any work, recovery that the model or the data do not allow.

    Raises:
        DataError: `head` without a train split: it would be judged on what it was fitted on.
        SettingsError: `head` for a user's own module, which names no classifier.
    """
    if HEAD not in settings.recover:
        return
    if not model.module.classifiers:
        raise SettingsError(
            f"{model.name} names no classifier to refit: leave {HEAD} out of --recover"
        )
    if len(data.train) < CALIBRATION_IMAGES:
        raise DataError(
            f"{data.name} has {len(data.train)} images to train on: refitting a classifier "
            f"(--recover {HEAD}) needs {CALIBRATION_IMAGES} that nothing is judged on; leave it "
            "out, or pass an ImageFolder with train/ beside val/, or an .npz with train_images "
            "and train_labels"
        )
