"""Images by purpose (search, calibration, verification, held-out), and the key of a search."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from primesvt_deploy.data import DataSet
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.data.pixel_cache import PixelCache, require_room
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, HEAD_IMAGES
from primesvt_deploy.settings import SearchSettings
from primesvt_deploy.version import __version__

__all__ = ["ImageSets", "decoded_once", "image_sets", "search_key"]


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """The images of a data set by what they are for.

    Args:
        data: the data set and its three splits.
        search: decisions rest on these, in the order that the seed fixes.
        calibration: pruned models are recovered on these: of the train split, or of the search
            split if there is no train split; never held-out ones.
        verification: artifacts are verified on these: the whole search split.
        held_out: accuracy is reported on these; no stage before has seen them.
    """

    data: DataSet
    search: ImageList
    calibration: ImageList
    verification: ImageList
    held_out: ImageList


def image_sets(data: DataSet, settings: SearchSettings) -> ImageSets:
    """The images of `data` by purpose, as many and in the order that the settings say."""
    ordered = data.search.shuffled(settings.seed)
    source = data.train if len(data.train) >= CALIBRATION_IMAGES else data.search
    return ImageSets(
        data=data,
        search=ordered.first(settings.search_images or len(data.search)),
        calibration=source.shuffled(settings.seed).first(HEAD_IMAGES),
        verification=ordered,
        held_out=data.held_out,
    )


def decoded_once(
    data: DataSet,
    settings: SearchSettings,
    directory: Path | None,
    progress: Progress,
    *,
    held_out: int | None = 0,
) -> DataSet:
    """The same data, of which what a search uses again and again is decoded once, when first used.

    These are the search, calibration and held-out images; all others are decoded at each use.

    Args:
        data: of which nothing is decoded yet.
        settings: which images are used.
        directory: for files of decoded images that do not fit memory; None: temporary ones.
        progress: is told of such files before they are written.
        held_out: images that are reported on, as many; None: the whole split.

    Raises:
        DataError: a file of them is gone.
        OutputError: there is no room for those that do not fit memory.
    """
    sets = image_sets(data, settings)
    reported = data.held_out.shuffled(settings.seed)
    reported = reported if held_out is None else reported.first(held_out)
    decision, report = (
        PixelCache(lists, directory and directory / f"{name}.pixels", progress)
        for name, lists in (("search", [sets.search, sets.calibration]), ("held-out", [reported]))
    )
    require_room([decision, report], directory or Path(tempfile.gettempdir()))
    return replace(
        data,
        search=decision.of(data.search),
        train=decision.of(data.train),
        held_out=report.of(data.held_out),
    )


def search_key(model: SViT, data: DataSet, settings: SearchSettings) -> str:
    """Digest of all that an evaluated candidate depends on: a ledger belongs to one key."""
    steps = repr(sorted(model.preprocessing.to_dict().items()))
    values = settings.to_dict()
    del values["policy"]  # a candidate is the same whichever policy asks for it
    if values["evaluation_precision"] == "fp32":
        del values["evaluation_precision"]  # keys from before it could be chosen still hold
    return fingerprint(model.digest, data.digest, steps, repr(values), __version__)
