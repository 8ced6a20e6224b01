"""Accuracy of the dense model on the search images, and doubts about it."""

from __future__ import annotations

from primesvt_deploy.data.pixel_cache import read_ahead
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.recorded_accuracy import chance_warning, check_recorded_accuracy
from primesvt_deploy.pruning.plan import Plan

__all__ = ["check_record", "measure_dense"]


def check_record(context: SearchContext) -> None:
    """Refuse a model that is far from the accuracy that its file records, if it records one.

    Raises:
        ModelError: it is.
    """
    if context.images is not None and context.model.recorded_accuracy is not None:
        check_recorded_accuracy(context.model, measure_dense(context))


def measure_dense(context: SearchContext) -> Accuracy:
    """The dense model's accuracy on some search images; the first time stages of their own.

    They are enough to tell whether it is far from what its file records, or hardly better than
    guessing. The search evaluates it on more of them as its decisions need them.
    """
    images = len(context.image_sets().search)
    if len(context.ledger.hits(Plan().digest, images)):
        found = _undoubted(context)
    else:
        if context.session is None:  # workers decode their own
            read_ahead(context.image_sets().search, context.progress)
        context.recovery.prepare(context.progress)
        context.progress.stage("dense accuracy", 1)
        found = _undoubted(context)
        context.progress.step(str(found))
    context.doubt(found)
    return found


def _undoubted(context: SearchContext) -> Accuracy:
    """Accuracy of the dense model on some images; on more, as long as that looks like guessing."""
    images = len(context.image_sets().search)
    found = context.judge.dense()
    while found.n < images and chance_warning(context.model, found, "search") is not None:
        found = context.judge.dense(2 * found.n)
    return found
