"""Decoded, resized and cropped samples, each made once: in memory, or in a file if many."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from primesvt_deploy.data.decoders import (
    CroppedDecoder,
    Decoder,
    Numbers,
    crop_of,
    cropped,
    shape_of,
    stacked,
)
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.data.loading import decoded, loading_workers
from primesvt_deploy.data.pixel_store import (
    FileStore,
    Form,
    MemoryStore,
    Rows,
    Store,
    mapped_samples,
    require_free,
    worded,
)
from primesvt_deploy.data.sent_samples import FileRows, SentDecoder
from primesvt_deploy.edge.runtime.arrays import available_memory
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import first_line
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["SHOWN", "PixelCache", "cached", "read_ahead", "require_room", "uncached", "unread"]

_SHARE = 8
"""A cache may take one part in so many of the memory that is available; larger ones are files."""
SHOWN = 128
"""Fewest samples whose reading is shown as a stage."""


class PixelCache:
    """Decoded, resized and cropped samples of some lists of images, each made on first use.

    They are kept in memory if they take an eighth of what is available at most, else in a file.
    What earlier calls left there of the same images is used. Frames are kept in their own type, or
    as float32 where the types of files differ.

    Args:
        lists: whose samples are kept, the first in the order of the file; lists of other data than
            the first one's are left out.
        path: of the file; None: one in the system's temporary directory, for this process alone.
        progress: is told of the file before it is written.
    """

    def __init__(
        self, lists: Sequence[ImageList], path: Path | None, progress: Progress = SILENT
    ) -> None:
        self._decode, self._steps = lists[0].decode, lists[0].preprocessing
        self._path, self._progress = path, progress
        same = [images.numbers for images in lists if images.decode is self._decode]
        self._sorted, first = np.unique(np.concatenate(same), return_index=True)
        by_use = np.argsort(first)
        self._numbers = self._sorted[by_use]
        self._row_of_sorted = np.argsort(by_use)
        self._store: Store | None = None

    def of(self, images: ImageList) -> ImageList:
        """The same images from this cache; those that are not kept are decoded as before.

        Args:
            images: any of the same source; others, and those that lie decoded in memory, are given
                back as they are.
        """
        decode = self._decode
        if images.decode is not decode or not isinstance(decode, Decoder) or decode.is_decoded:
            return images
        return replace(images, decode=_CachedDecoder(decode, self))

    def samples(self, numbers: Numbers, steps: InputSteps) -> npt.NDArray[Any]:
        """Samples resized and cropped, of the cache and others; see `CroppedDecoder`."""
        rows = self._rows(numbers)
        if crop_of(steps) != crop_of(self._steps) or (rows < 0).any():
            return stacked([self._sample(int(number), steps) for number in numbers])
        self._fill(rows)
        return self._opened(rows).read(rows)

    def _sample(self, number: int, steps: InputSteps) -> npt.NDArray[Any]:
        rows = self._rows(np.array([number]))
        if rows[0] < 0 or crop_of(steps) != crop_of(self._steps):
            return cropped(steps, self._decode(number))
        self._fill(rows)
        sample: npt.NDArray[Any] = self._opened(rows).read(rows)[0]
        return sample

    def read_ahead(self, numbers: Numbers, progress: Progress) -> None:
        """Decode those of some samples that are kept and not there yet; see the function."""
        rows = self._rows(numbers)
        rows = rows[rows >= 0]
        if not len(rows):
            return
        missing = len(self._opened(rows).missing(rows))
        if missing >= SHOWN:
            progress.stage("reading images", 1)
            self._fill(rows, progress)
            progress.step()
        else:
            self._fill(rows)

    def unread(self, numbers: Numbers) -> int:
        """How many of some samples are to be decoded yet."""
        rows = self._rows(numbers)
        kept = rows[rows >= 0]
        is_new = self._store is None and (self._path is None or not self._path.exists())
        if is_new or not len(kept):
            return len(rows)
        return len(rows) - len(kept) + len(self._opened(kept).missing(kept))

    def file_bytes(self) -> int:
        """Bytes that its file will take at least; 0: it is there, or none is needed."""
        decode = self._decode
        if not isinstance(decode, Decoder) or decode.is_decoded:
            return 0
        least = np.dtype(np.uint8)  # of frames, which may take more
        if self._fits_memory(least) or self._known(least) is not None:
            return 0
        return self._form(least).size

    def part(self, numbers: Numbers) -> Decoder | None:
        """A decoder of some samples that can be sent; None: not all are there."""
        assert isinstance(self._decode, Decoder)
        rows = self._rows(numbers)
        if self._store is None or (rows < 0).any() or len(self._store.missing(rows)):
            return None
        source, store = self._decode.only(numbers), self._store
        if isinstance(store, FileStore):
            return SentDecoder(source, FileRows(store.path, store.form, rows), self._steps)
        return SentDecoder(source, store.read(rows), self._steps)

    def _rows(self, numbers: Numbers) -> Rows:
        """Row of each sample; -1: it is not kept."""
        if not len(self._sorted):
            return np.full(len(numbers), -1)
        place = np.searchsorted(self._sorted, numbers)
        place = np.minimum(place, len(self._sorted) - 1)
        found: Rows = np.where(
            self._sorted[place] == numbers, self._row_of_sorted[place], np.int64(-1)
        )
        return found

    def _fill(self, rows: Rows, progress: Progress = SILENT) -> None:
        missing = self._opened(rows).missing(rows)
        total, workers = len(missing), loading_workers(len(missing))
        try:
            self._make(missing, total, workers, progress)
        except (OSError, RuntimeError) as error:
            if not workers:
                raise
            # One of them was killed, such as for its memory, or could not be started.
            self._progress.message(
                f"note: processes that read images ended ({first_line(error)}): this one goes on"
            )
            self._make(self._opened(rows).missing(rows), total, 0, progress)

    def _make(self, rows: Rows, total: int, workers: int, progress: Progress) -> None:
        """Decode rows, the last of `total`."""
        assert isinstance(self._decode, Decoder)
        samples = decoded(self._decode, self._steps, self._numbers[rows], workers)
        with contextlib.closing(samples):
            before = total - len(rows)
            for done, (row, sample) in enumerate(zip(rows.tolist(), samples, strict=True), 1):
                self._write(row, sample)
                progress.advance(before + done, total)

    def _write(self, row: int, sample: npt.NDArray[Any]) -> None:
        store = self._store
        assert store is not None
        if sample.dtype != store.form.dtype and store.form.dtype != np.float32:
            self._store = self._made(np.dtype(np.float32))  # what every type becomes in the end
            all_rows = np.arange(store.form.count)
            for there in np.setdiff1d(all_rows, store.missing(all_rows)).tolist():
                known = store.read(np.array([there]))[0]
                self._store.write(there, known.astype(np.float32))
            store = self._store
        store.write(row, sample.astype(store.form.dtype, copy=False))

    def _opened(self, rows: Rows) -> Store:
        """The store; made on first use, in the type of the first sample that is asked for."""
        if self._store is None:
            dtype = np.dtype(np.uint8)
            if not isinstance(self._steps, Preprocessing):
                dtype = self._decode(int(self._numbers[rows[0]])).dtype
            self._store = self._made(dtype)
        return self._store

    def _made(self, dtype: np.dtype[Any]) -> Store:
        known = self._known(dtype)
        if known is not None and self._path is not None:
            return FileStore(self._path, known)
        if self._fits_memory(dtype):
            return MemoryStore(self._form(dtype, key=""))
        form, path = self._form(dtype), self._path or Path(self._temporary.name) / "samples.pixels"
        self._progress.message(
            f"the decoded images take {worded(form.size)}: kept in {path} while this runs"
        )
        return FileStore(path, form)

    def _known(self, dtype: np.dtype[Any]) -> Form | None:
        """The form of a file that an earlier call left; None: there is none."""
        path = self._path
        if path is None or not path.exists():
            return None
        forms = (self._form(each) for each in (dtype, np.dtype(np.float32)))
        return next((each for each in forms if mapped_samples(path, each) is not None), None)

    def _form(self, dtype: np.dtype[Any], key: str | None = None) -> Form:
        key = self._key if key is None else key
        return Form(key, len(self._numbers), shape_of(self._steps), dtype)

    def _fits_memory(self, dtype: np.dtype[Any]) -> bool:
        return self._form(dtype, key="").size <= available_memory() // _SHARE

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="primesvt-")

    @cached_property
    def _key(self) -> str:
        """Digest of the samples, their order, and what decodes, resizes and crops them."""
        assert isinstance(self._decode, Decoder)
        identity = self._decode.identity(self._numbers)
        return fingerprint(repr(crop_of(self._steps)), PIL.__version__, self._numbers, *identity)


class _CachedDecoder(CroppedDecoder):
    """Samples of a source, decoded once where its cache keeps them."""

    def __init__(self, source: Decoder, cache: PixelCache) -> None:
        self.source, self.cache = source, cache

    def __call__(self, number: int) -> npt.NDArray[Any]:
        return self.source(number)

    def samples(self, numbers: Numbers, steps: InputSteps) -> npt.NDArray[Any]:
        return self.cache.samples(numbers, steps)

    def only(self, numbers: Numbers) -> Decoder:
        """The samples where they are there, else their source: nothing is decoded to be sent."""
        return self.cache.part(numbers) or self.source.only(numbers)

    def check_visible(self, numbers: Numbers) -> None:
        self.source.check_visible(numbers)


def cached(images: ImageList, path: Path | None, progress: Progress = SILENT) -> ImageList:
    """The same images, each decoded once; see `PixelCache`.

    Args:
        images: any; those that lie decoded in memory are given back as they are.
        path: of the file that keeps them if memory does not suffice; None: a temporary one.
        progress: is told of the file before it is written.
    """
    return PixelCache([images], path, progress).of(images)


def uncached(images: ImageList) -> ImageList:
    """The same images, decoded from their source: for a machine that does not see the cache."""
    decode = images.decode
    if isinstance(decode, _CachedDecoder | SentDecoder):
        return replace(images, decode=decode.source)
    return images


def require_room(caches: Sequence[PixelCache], directory: Path) -> None:
    """Refuse, before any long work, caches whose files a disk has no room for.

    Args:
        caches: to be filled.
        directory: of their files; it need not be there yet.

    Raises:
        OutputError: there is no room.
    """
    wanted = sum(cache.file_bytes() for cache in caches)
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if wanted:
        require_free(there, wanted)


def read_ahead(images: ImageList, progress: Progress = SILENT) -> None:
    """Decode those images of a cached list that are not kept yet, in parallel.

    It is a stage of its own if they are many. A list without a cache is left alone.

    Args:
        images: about to be used, all of them.
        progress: gets the stage.

    Raises:
        DataError, ImageError: an image cannot be read.
        OutputError: there is no room to keep them.
    """
    if isinstance(images.decode, _CachedDecoder):
        images.decode.cache.read_ahead(images.numbers, progress)


def unread(images: ImageList) -> int:
    """How many images of a list are to be decoded before it is used; 0: they lie decoded."""
    decode = images.decode
    if isinstance(decode, _CachedDecoder):
        return decode.cache.unread(images.numbers)
    return 0 if not isinstance(decode, Decoder) or decode.is_decoded else len(images)
