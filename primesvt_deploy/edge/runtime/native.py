"""Run a `model.svit` in the C engine, which `native_library` compiles on this machine."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .errors import BundleError
from .native_library import OWN_SOURCES, load_library
from .stages import Stage

__all__ = ["NATIVE_FILE", "NativeModel"]

NATIVE_FILE = "model.svit"
"""Name of the model file in a bundle."""

_ALIGNMENT = 64
_MODEL_BYTES = 256
"""Room for the engine's `svit_model`, whose fields are its own."""
_PIXELS_ALONE = 2
"""`takes_pixels` of a model that takes nothing else, `SVIT_PIXELS_ALONE` in the engine."""
_MAX_BYTE = 255
_ONES = np.array([value.bit_count() for value in range(_MAX_BYTE + 1)], dtype=np.uint8)


class _Info(ctypes.Structure):
    """The engine's `svit_info`."""

    _fields_: ClassVar = [
        (name, ctypes.c_int32)
        for name in (
            "timesteps",
            "frames",
            "channels",
            "height",
            "width",
            "classes",
            "takes_pixels",
            "stages",
        )
    ]


class _Stage(ctypes.Structure):
    """The engine's `svit_stage`."""

    _fields_: ClassVar = [("timesteps", ctypes.c_int32), ("margin", ctypes.c_float)]


class _Layer(ctypes.Structure):
    """The engine's `svit_layer`."""

    _fields_: ClassVar = [
        ("name", ctypes.c_char_p),
        ("positions", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("timesteps", ctypes.c_int32),
        ("spikes", ctypes.POINTER(ctypes.c_uint8)),
        ("values", ctypes.POINTER(ctypes.c_float)),
        ("planes", ctypes.c_int32),
        ("step_bits", ctypes.c_int32),
        ("steps_per_group", ctypes.c_int32),
    ]


_Observer = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Layer))


class NativeModel:
    """A model file opened in the C engine.

    The interface of `OnnxModel`, and pixels and the spikes of every layer besides. The file is
    mapped, and shared by all processes that have it open; weights of 4 bits are unpacked to bytes
    once. A run needs no other memory than its arena. Threads may share a model.

    Args:
        path: the `.svit` file.
        threads: how many samples of a batch are run at a time, and, if it is given, how many work
            on a single one; 0: of a batch one a core, of a single one one.
        sources: directory of the engine's C files; see `OWN_SOURCES`.
        checked: whether the file's SHA-256 was checked already, as that of a bundle's files is;
            offsets, sizes and indices in it are checked in any case.
        stage: number of the stage to run alone; None: stages are run until a margin suffices.

    Attributes:
        fixed_batch: None: any number of samples.
        sample_shape: of one sample: `(C, H, W)`, or `(T, C, H, W)`.
        sample_dtype: uint8 where samples are pixels, float32 where they are preprocessed values.
        classes: K.
        stages: of the model, those of fewer timesteps first; a single one where T is fixed.
        takes_pixels: whether `logits_of_pixels` can be called.
        arena_bytes: of memory that a run works in.
        kernels: the instruction set that is used, such as `avx2`.

    Raises:
        BundleError: there is no such file, it is damaged, or the engine cannot be compiled.
    """

    fixed_batch: int | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        sources: str | os.PathLike[str] = OWN_SOURCES,
        checked: bool = False,
        stage: int | None = None,
    ) -> None:
        self._again = partial(NativeModel, path, threads=threads, sources=sources, checked=True)
        self._file = _map_file(path)
        self._engine = _declared(load_library(sources))
        self._model = ctypes.create_string_buffer(_MODEL_BYTES)
        self._threads = threads if threads > 0 else len(os.sched_getaffinity(0))
        self._together = max(threads, 1)
        self._team: _Team | None = None
        self._arenas: list[npt.NDArray[np.uint8]] = []
        open_model = self._engine.svit_open_unhashed if checked else self._engine.svit_open
        error = open_model(self._model, self._file.ctypes.data, self._file.size)
        if error:
            raise BundleError(f"{os.fspath(path)}: {self._said(error)}")
        self._unpacked = self._unpack()
        if stage is not None:
            self._check(self._engine.svit_use_stage(self._model, stage))
        info = self._engine.svit_describe(self._model)
        self.stages = tuple(self._stage(number) for number in range(info.stages))
        shape = (info.channels, info.height, info.width)
        self.sample_shape: tuple[int, ...] = (info.frames, *shape) if info.frames else shape
        self.classes: int = info.classes
        self.takes_pixels = bool(info.takes_pixels)
        self.sample_dtype = np.dtype(np.uint8 if info.takes_pixels == _PIXELS_ALONE else np.float32)
        self.arena_bytes: int = self._engine.svit_arena_bytes(self._model)
        self.kernels: str = self._engine.svit_kernels_name(self._model).decode()

    def whole(self) -> NativeModel:
        """The model that takes all timesteps: this one, unless it has several stages."""
        last = len(self.stages) - 1
        return self._again(stage=last) if last else self

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run the model on preprocessed samples.

        Args:
            images: float32 `[N, C, H, W]`, or sequences of frames `[N, T, C, H, W]`; uint8 where
                `sample_dtype` is.

        Returns:
            Logits, float32 `[N, K]`.

        Raises:
            BundleError: samples of another shape.
        """
        return self.logits_and_timesteps(images)[0]

    def logits_and_timesteps(
        self, images: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Run the model on preprocessed samples, and say how many timesteps each took.

        Args:
            images: see `logits`.

        Returns:
            Logits, float32 `[N, K]`, and T of the stage that they are of, int32 `[N]`.

        Raises:
            BundleError: samples of another shape.
        """
        if self.sample_dtype == np.uint8:
            pixels = self._pixels(np.moveaxis(images, -3, -1))
            return self._run_all(pixels, self._engine.svit_run)
        return self._run_all(self._values(images), self._engine.svit_run_float)

    def logits_of_pixels(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the model on images of its size, which it normalises itself.

        Args:
            images: uint8 `[N, H, W, C]`.

        Returns:
            Logits, float32 `[N, K]`, the same as of the normalised images.

        Raises:
            BundleError: images of another shape or type, or the model takes no pixels.
        """
        return self._run_all(self._pixels(images), self._engine.svit_run)[0]

    def observe(self, sample: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Run the model on one sample and keep what each layer gives.

        Args:
            sample: float32 `[C, H, W]` or `[T, C, H, W]`, preprocessed; or uint8 `[H, W, C]`.

        Returns:
            By layer: of a neuron layer how often each neuron fires, `[timesteps, neurons]`, neurons
            numbered `position * channels + channel`, uint8 (int32 where a count may exceed it); of
            any other float32 `[timesteps, positions, channels]`, of 1 timestep where its values do
            not change over time. Of several stages that were run, the last one's.

        Raises:
            BundleError: a sample of another shape.
        """
        found: dict[str, npt.NDArray[Any]] = {}
        failures: list[BaseException] = []

        def keep(_: int | None, layer: Any) -> None:
            try:
                found[layer.contents.name.decode()] = _output(layer.contents)
            except BaseException as error:  # ctypes would print it and go on
                failures.append(error)

        of_pixels = sample.dtype == np.uint8
        given = self._pixels(sample[None]) if of_pixels else self._values(sample[None])
        places = (given.ctypes.data, None) if of_pixels else (None, given.ctypes.data)
        logits = np.empty(self.classes, np.float32)
        arena = self._arena()
        error = self._engine.svit_run_observed(
            self._model, arena.ctypes.data, *places, logits.ctypes.data, _Observer(keep), None
        )
        if failures:
            raise failures[0]
        if error:
            raise BundleError(self._said(error))
        self._arenas.append(arena)
        return found

    def _unpack(self) -> npt.NDArray[np.uint8] | None:
        """Weights of 4 bits as bytes, which the model reads from then on."""
        size: int = self._engine.svit_unpacked_bytes(self._model)
        if not size:
            return None
        memory = _aligned(size)
        self._check(self._engine.svit_unpack(self._model, memory.ctypes.data))
        return memory

    def _run_all(
        self, samples: npt.NDArray[Any], run: Callable[..., int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Run samples, which are as the engine wants them; many are shared among threads."""
        logits = np.empty((len(samples), self.classes), np.float32)
        timesteps = np.empty(len(samples), np.int32)
        parts = min(self._threads, len(samples))
        if len(samples) == 1 and self._together > 1:
            if self._team is None:
                self._team = _Team(self._engine, self._model, self._together)
            self._check(self._team.run(samples, logits, timesteps))
            return logits, timesteps
        if parts <= 1:
            self._run_part(samples, logits, timesteps, run)
            return logits, timesteps
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(parts) as pool:
            # The engine runs without Python's lock, which ctypes releases.
            list(
                pool.map(
                    lambda i: self._run_part(
                        samples[i::parts], logits[i::parts], timesteps[i::parts], run
                    ),
                    range(parts),
                )
            )
        return logits, timesteps

    def _run_part(
        self,
        samples: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        timesteps: npt.NDArray[np.int32],
        run: Callable[..., int],
    ) -> None:
        arena = self._arena()
        sample_at, logits_at = samples.ctypes.data, logits.ctypes.data
        for index in range(len(samples)):
            error = run(
                self._model,
                arena.ctypes.data,
                sample_at + index * samples.strides[0],
                logits_at + index * logits.strides[0],
            )
            self._check(error)
            timesteps[index] = self._engine.svit_timesteps(self._model, arena.ctypes.data)
        self._arenas.append(arena)

    def _stage(self, number: int) -> Stage:
        found = self._engine.svit_describe_stage(self._model, number)
        return Stage(found.timesteps, found.margin)

    def _check(self, error: int) -> None:
        if error:
            raise BundleError(self._said(error))

    def _arena(self) -> npt.NDArray[np.uint8]:
        """An arena that no run works in; runs put theirs back."""
        try:
            return self._arenas.pop()
        except IndexError:
            return _aligned(self.arena_bytes)

    def _values(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if images.shape[1:] != self.sample_shape:
            raise BundleError(
                f"found samples {list(images.shape[1:])}, expected {list(self.sample_shape)}: "
                "prepare them as the bundle's manifest says"
            )
        if images.dtype.kind != "f":  # bytes, say, would be taken for normalised values
            raise BundleError(
                f"found samples {images.dtype}, expected float32: prepare them as the bundle's "
                "manifest says, or call `logits_of_pixels`"
            )
        return np.ascontiguousarray(np.moveaxis(images, -3, -1), dtype=np.float32)

    def _pixels(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        channels, *size = self.sample_shape[-3:]
        if images.dtype != np.uint8 or images.shape[1:] != (*size, channels):
            raise BundleError(
                f"found images {images.dtype} {list(images.shape[1:])}, expected uint8 "
                f"{[*size, channels]}: resize them, or prepare them and call `logits`"
            )
        return np.ascontiguousarray(images)

    def _said(self, error: int) -> str:
        text: bytes = self._engine.svit_error_text(error)
        return text.decode()


class _Team:
    """Threads that work on one sample together; one sample at a time.

    Args:
        engine: the loaded library.
        model: an open model, which the caller keeps.
        threads: how many, the caller's among them.

    Raises:
        BundleError: the system refuses the threads.
    """

    def __init__(self, engine: ctypes.CDLL, model: Any, threads: int) -> None:
        self._engine, self._model = engine, model
        self._arena = _aligned(engine.svit_parts_arena_bytes(model, threads))
        self._lock = threading.Lock()
        self._team = engine.svit_team_create(threads)
        if not self._team:
            raise BundleError(f"the system refuses {threads} threads: pass fewer")
        weakref.finalize(self, engine.svit_team_destroy, self._team)

    def run(
        self,
        samples: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        timesteps: npt.NDArray[np.int32],
    ) -> int:
        """Run the first sample; the engine's error."""
        place = samples.ctypes.data
        given = (place, None) if samples.dtype == np.uint8 else (None, place)
        with self._lock:
            error: int = self._engine.svit_team_run(
                self._team, self._model, self._arena.ctypes.data, *given, logits.ctypes.data
            )
            if not error:
                timesteps[0] = self._engine.svit_timesteps(self._model, self._arena.ctypes.data)
        return error


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Memory as the engine wants it."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def _map_file(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """A file, mapped for reading: page by page from the disk, as it is used."""
    try:
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError as error:
        raise BundleError(f"there is no model file at {os.fspath(path)}: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise BundleError(
            f"{os.fspath(path)} cannot be read ({error}): copy the bundle again"
        ) from error


def _declared(engine: ctypes.CDLL) -> ctypes.CDLL:
    """Declare what the engine's functions take and give."""
    run = (ctypes.c_void_p,) * 4
    for name, gives, takes in (
        ("svit_open", ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
        ("svit_open_unhashed", ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
        ("svit_describe", _Info, run[:1]),
        ("svit_describe_stage", _Stage, (ctypes.c_void_p, ctypes.c_int32)),
        ("svit_use_stage", ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32)),
        ("svit_timesteps", ctypes.c_int32, run[:2]),
        ("svit_arena_bytes", ctypes.c_size_t, run[:1]),
        ("svit_unpacked_bytes", ctypes.c_size_t, run[:1]),
        ("svit_unpack", ctypes.c_int, run[:2]),
        ("svit_run", ctypes.c_int, run),
        ("svit_run_float", ctypes.c_int, run),
        ("svit_run_observed", ctypes.c_int, (*run, ctypes.c_void_p, _Observer, ctypes.c_void_p)),
        ("svit_error_text", ctypes.c_char_p, (ctypes.c_int,)),
        ("svit_kernels_name", ctypes.c_char_p, run[:1]),
        ("svit_parts_arena_bytes", ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_int32)),
        ("svit_team_create", ctypes.c_void_p, (ctypes.c_int32,)),
        ("svit_team_destroy", None, run[:1]),
        ("svit_team_run", ctypes.c_int, (*run, ctypes.c_void_p, ctypes.c_void_p)),
    ):
        function = getattr(engine, name)
        function.restype, function.argtypes = gives, takes
    return engine


def _output(layer: _Layer) -> npt.NDArray[Any]:
    """A copy of what a layer gives."""
    if layer.values:
        shape = (layer.timesteps, layer.positions, layer.channels)
        return np.ctypeslib.as_array(layer.values, shape).copy()
    groups = -(-layer.timesteps // layer.steps_per_group)
    shape = (groups, layer.planes, layer.positions * layer.channels)
    return _counts(layer, np.ctypeslib.as_array(layer.spikes, shape))


def _counts(layer: _Layer, stored: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """How often neurons fire; see `spikes_ref` in `svit_internal.h`.

    Args:
        layer: says how they are stored.
        stored: bytes `[groups, planes, neurons]`.

    Returns:
        `[timesteps, neurons]`.
    """
    most = layer.planes * layer.step_bits
    counts = np.zeros((layer.timesteps, stored.shape[-1]), np.uint8 if most <= _MAX_BYTE else "i4")
    mask = (1 << layer.step_bits) - 1
    for step in range(layer.timesteps):
        group, place = divmod(step, layer.steps_per_group)
        bits = stored[group] >> place * layer.step_bits & mask
        counts[step] = _ONES[bits].sum(axis=0, dtype=counts.dtype)
    return counts
