"""The engine gives the logits and spikes of its model, for images, pixels and event frames."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from families.zoo import model_of
from small_models import SHALLOW, make_model

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.native import NativeModel, _Layer, _output
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES, load_library
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # the engine is compiled, and networks are traced

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
FRAMES = RNG.integers(0, 4, (6, 2, 2, 16, 16)).astype(np.float32)


def exported(model: SViT, path: Path) -> SViT:
    """The quantized model, written to `path`."""
    quantized = quantize(model, 8)
    export_native(quantized, path, precision=Precision.INT8)
    return quantized


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native") / "model.svit"


@pytest.fixture(scope="module")
def quantized(path: Path) -> SViT:
    return exported(make_model(SHALLOW), path)


@pytest.fixture(scope="module")
def native(path: Path, quantized: SViT) -> NativeModel:
    return NativeModel(path, threads=1)


def require_same(found: np.ndarray, expected: torch.Tensor) -> None:
    """A flipped spike, where float currents lie at the threshold, may move single samples."""
    assert found.dtype == np.float32 and found.shape == tuple(expected.shape)
    near = np.abs(found - expected.numpy()).max(axis=1) <= 1e-5
    assert near.mean() >= 0.8


def test_logits_are_those_of_the_model(native: NativeModel, quantized: SViT) -> None:
    assert native.sample_shape == (3, 16, 16)
    assert native.fixed_batch is None
    assert (native.classes, native.takes_pixels) == (5, True)
    inputs = quantized.preprocessing.normalise(IMAGES)
    require_same(native.logits(inputs), quantized.logits(torch.from_numpy(inputs)))


def test_pixels_give_the_same_logits(native: NativeModel, quantized: SViT) -> None:
    expected = native.logits(quantized.preprocessing.normalise(IMAGES))
    np.testing.assert_array_equal(native.logits_of_pixels(IMAGES), expected)
    np.testing.assert_array_equal(native.logits_of_pixels(IMAGES[::2]), expected[::2])
    assert native.logits_of_pixels(IMAGES[:0]).shape == (0, 5)


def test_event_frames(tmp_path: Path) -> None:
    model = exported(model_of("spikformer, frames"), tmp_path / "model.svit")
    native = NativeModel(tmp_path / "model.svit")
    assert native.sample_shape == (2, 2, 16, 16)
    require_same(native.logits(FRAMES), model.logits(torch.from_numpy(FRAMES)))
    assert native.observe(FRAMES[0])
    with pytest.raises(BundleError, match="takes float values, not pixels"):
        native.logits_of_pixels(IMAGES[..., :2])


def test_threads_may_share_a_model(path: Path, native: NativeModel) -> None:
    expected = native.logits_of_pixels(IMAGES)
    shared = NativeModel(path, threads=3)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(shared.logits_of_pixels, [IMAGES] * 6):
            np.testing.assert_array_equal(found, expected)


def test_a_run_leaves_pythons_lock_to_others(native: NativeModel) -> None:
    running, counted = threading.Event(), 0

    def work() -> None:
        running.set()
        native.logits_of_pixels(IMAGES.repeat(20, axis=0))
        running.clear()

    thread = threading.Thread(target=work)
    thread.start()
    running.wait()
    while running.is_set():
        counted += 1
    thread.join()
    assert counted > 100


def test_spikes_of_pixels_and_of_values_are_observed(native: NativeModel, quantized: SViT) -> None:
    found = native.observe(IMAGES[0])
    inputs = quantized.preprocessing.normalise(IMAGES)
    again = native.observe(inputs[0])
    assert found.keys() == again.keys() and len(found) >= 10
    for name, counts in found.items():
        np.testing.assert_array_equal(counts, again[name])
    neurons = [counts for counts in found.values() if counts.ndim == 2]
    assert {counts.dtype for counts in neurons} == {np.dtype(np.uint8)}
    assert {len(counts) for counts in neurons} == {SHALLOW.timesteps}
    # A run overwrites what was observed in the arena, not what was kept.
    native.logits_of_pixels(IMAGES)
    assert all(0 < counts.mean() < 1 for counts in neurons)


def layers() -> Iterator[_Layer]:
    """A layer of every form that spikes are stored in."""
    for timesteps, planes, step_bits, steps_per_group in [
        (1, 1, 1, 1),
        (4, 1, 1, 4),
        (3, 1, 2, 4),
        (3, 1, 3, 2),
        (2, 1, 8, 1),
        (11, 3, 1, 8),
        (32, 1, 1, 8),
        (2, 5, 1, 8),
        (1, 60, 8, 1),
    ]:
        layer = _Layer(b"layer", 5, 7, timesteps)
        layer.planes, layer.step_bits = planes, step_bits
        layer.steps_per_group = steps_per_group
        yield layer


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: f"{layer.timesteps}-{layer.planes}")
def test_counts_are_those_that_the_engine_gives(layer: _Layer) -> None:
    groups = -(-layer.timesteps // layer.steps_per_group)
    stored = RNG.integers(0, 256, (groups, layer.planes, 35), dtype=np.uint8)
    layer.spikes = stored.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    engine = load_library()
    engine.svit_spike_count.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
    expected = [
        [engine.svit_spike_count(ctypes.addressof(layer), step, neuron) for neuron in range(35)]
        for step in range(layer.timesteps)
    ]
    found = _output(layer)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.uint8 if layer.planes * layer.step_bits < 256 else np.int32)


def test_structures_are_those_of_the_header(tmp_path: Path) -> None:
    names = [name for name, _ in _Layer._fields_]
    places = "".join(f'printf("%zu ", offsetof(svit_layer, {name}));' for name in names)
    sizes = 'printf("%zu %zu", sizeof(svit_layer), sizeof(svit_model));'
    (tmp_path / "a.c").write_text(
        f'#include <stdio.h>\n#include "svit.h"\nint main(void) {{ {places}{sizes} return 0; }}'
    )
    command = ["cc", "-I", str(OWN_SOURCES), "-o", str(tmp_path / "a"), str(tmp_path / "a.c")]
    subprocess.run(command, check=True)
    said = subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True).stdout
    *found, model_size = map(int, said.split())
    expected = [getattr(_Layer, name).offset for name in names]
    assert found == [*expected, ctypes.sizeof(_Layer)]
    assert model_size <= 256


def message(path: Path, **options: bool) -> str:
    """The one line that opening a file ends with."""
    with pytest.raises(BundleError) as caught:
        NativeModel(path, **options)
    text = str(caught.value)
    assert text.isprintable()
    return text.removeprefix(str(path))


def test_files_that_are_no_model_are_one_line(path: Path, native: NativeModel) -> None:
    other = path.with_name("other.svit")
    assert message(other) == f"there is no model file at {other}: check the path"
    assert " cannot be read (" in message(path.parent)
    whole = bytearray(path.read_bytes())
    for content, said in [
        (b"", " cannot be read (cannot mmap an empty file): copy the bundle again"),
        (b"ONNX", ": not a model.svit file: pass the file of a bundle"),
        (whole[:-1], ": a model.svit that is shorter or longer than its header says: copy the "),
    ]:
        other.write_bytes(content)
        assert message(other).startswith(said)
    whole[-300] ^= 1
    other.write_bytes(whole)
    assert "was altered (its SHA-256 differs)" in message(other)
    assert NativeModel(other, checked=True).classes == 5


def test_samples_of_another_shape_are_one_line(native: NativeModel) -> None:
    for images in (np.zeros((1, 3, 16, 8), np.float32), np.zeros((3, 16, 16), np.float32)):
        with pytest.raises(BundleError, match=r"expected \[3, 16, 16\]: prepare them"):
            native.logits(images)
        with pytest.raises(BundleError, match=r"expected uint8 \[16, 16, 3\]: resize them"):
            native.logits_of_pixels(images)  # type: ignore[arg-type]


def test_bytes_are_not_taken_for_normalised_values(native: NativeModel) -> None:
    for dtype in (np.uint8, np.int64):
        with pytest.raises(BundleError, match=r"found samples .*int\d+, expected float32: prepare"):
            native.logits(np.zeros((1, 3, 16, 16), dtype))


def test_the_sources_may_be_elsewhere(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"found no svit.c in {tmp_path}"):
        NativeModel(path, sources=tmp_path)
