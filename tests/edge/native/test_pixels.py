"""The convolution of pixels in the engine: every geometry, with the kernels of every processor."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from pixel_nets import GEOMETRIES, own, pixels

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.native import NativeComparison

pytestmark = pytest.mark.slow  # engines are compiled


def tables() -> list[str]:
    """Kernels that this machine can run."""
    if platform.machine() == "aarch64":
        return ["neon", "mcu"]
    flags = Path("/proc/cpuinfo").read_text().split()
    wanted = {"avx2": {"avx2", "bmi2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return ["portable", "mcu", *(name for name, needed in wanted.items() if needed <= set(flags))]


@pytest.fixture(scope="module", params=tables())
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's sources, which choose these kernels."""
    directory: Path = tmp_path_factory.mktemp(request.param) / "native"
    shutil.copytree(OWN_SOURCES, directory)
    (directory / "svit_choose.c").write_text(
        '#include "svit_internal.h"\n'
        f"extern const svit_kernels svit_kernels_{request.param};\n"
        "const svit_kernels *svit_choose_kernels(void) "
        f"{{ return &svit_kernels_{request.param}; }}\n"
    )
    return directory


@pytest.fixture(scope="module")
def models() -> dict[str, SViT]:
    """Quantized networks; of 24 outputs and one, too, which fill no register."""
    return {
        **{name: quantize(own(**g), 8, integer_input=True) for name, g in GEOMETRIES.items()},
        "24 outputs": quantize(own(outputs=24, kernel_size=3), 8, integer_input=True),
        "one output": quantize(own(outputs=1, kernel_size=5), 8, integer_input=True),
    }


@pytest.mark.parametrize("name", [*GEOMETRIES, "24 outputs", "one output"])
def test_every_spike_is_the_models(
    name: str, sources: Path, models: dict[str, SViT], tmp_path: Path
) -> None:
    model, path = models[name], tmp_path / "m.svit"
    artifact = export_native(model, path, precision=Precision.INT8, observe_float_layers=True)
    assert artifact.integer_layers[0] == "net.conv"
    engine = NativeModel(path, threads=1, sources=sources)
    assert f"svit_kernels_{engine.kernels}" in (sources / "svit_choose.c").read_text()
    counts = NativeComparison(model, engine, artifact, share=False)
    logits = counts.compare(pixels(6).numpy())
    assert counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(engine.logits(pixels(6).numpy()), logits, rtol=0, atol=1e-5)


def test_samples_of_another_kind_are_refused(models: dict[str, SViT], tmp_path: Path) -> None:
    path = tmp_path / "m.svit"
    export_native(models["3x3"], path, precision=Precision.INT8)
    engine = NativeModel(path)
    assert (engine.takes_pixels, engine.sample_dtype) == (True, np.uint8)
    values = pixels(1).numpy().astype(np.float32)
    with pytest.raises(BundleError, match=r"found images float32 \[16, 16, 3\], expected uint8"):
        engine.logits(values)
    with pytest.raises(BundleError, match="the model takes pixels alone, not float values"):
        engine.observe(values[0])
    images = pixels(3).numpy()
    expected = engine.logits_of_pixels(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    np.testing.assert_array_equal(engine.logits(images), expected)


def test_no_image_is_kept_in_the_arena(models: dict[str, SViT], tmp_path: Path) -> None:
    alone = export_native(models["patches"], tmp_path / "a.svit", precision=Precision.INT8)
    both = quantize(own(**GEOMETRIES["patches"]), 8)
    values = export_native(both, tmp_path / "b.svit", precision=Precision.INT8)
    assert values.arena_bytes - alone.arena_bytes > 2 * 16 * 16 * 3
