"""A bundle runs in the runtimes that it was built for, and each needs nothing of the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sealed_bundles import seal, unchecked
from small_models import SHALLOW, make_model, primesvt, write_arrays

from primesvt_deploy import BuildSettings, Classifier, build, open_data
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.main import main
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.runtimes import open_model
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.settings import Precision, Runtime

WITHOUT = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnxruntime", "primesvt_deploy", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
sys.argv = [sys.argv[1] + "/run.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a model file for each runtime."""
    directory = tmp_path_factory.mktemp("both")
    model = make_model(SHALLOW)
    data = open_data(model, write_arrays(directory / "d.npz", model))
    settings = BuildSettings(
        budget_mb=20.0, verify_images=20, runtime=Runtime.BOTH, precision=Precision.INT8
    )
    return build(model, directory / "bundle", settings, data=data).path


@pytest.fixture(scope="module")
def native(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle as one for the native runtime alone."""
    directory = tmp_path_factory.mktemp("native") / "bundle"
    shutil.copytree(both, directory)
    for name in ("model.onnx", "session.json"):
        (directory / name).unlink()
    return with_runtimes(directory, ["native"])


def with_runtimes(bundle: Path, runtimes: list[str]) -> Path:
    return seal(bundle, runtimes=runtimes)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels.repeat(4, axis=0).repeat(4, axis=1)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def without_onnxruntime(bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`run.py` on a machine that has neither onnxruntime nor this package."""
    command = [sys.executable, "-c", WITHOUT, str(bundle), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_both_runtimes_give_the_same(both: Path, photo: Path) -> None:
    (usual,), (onnx,), (native,) = (
        Classifier(both, threads=1, runtime=runtime).classify([photo])
        for runtime in (None, "onnx", "native")
    )
    assert usual == onnx
    np.testing.assert_allclose(native.logits, onnx.logits, atol=0.5)
    assert isinstance(Classifier(both).model, OnnxModel)
    assert isinstance(Classifier(both, runtime="native").model, NativeModel)


@pytest.mark.slow
def test_a_bundle_for_the_native_runtime_needs_no_onnxruntime(native: Path, photo: Path) -> None:
    assert isinstance(Classifier(native).model, NativeModel)
    (expected,) = Classifier(native).classify([photo])
    found = without_onnxruntime(native, photo, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == expected.to_dict()


@pytest.mark.slow
def test_a_bundle_for_both_says_what_to_do_without_onnxruntime(both: Path, photo: Path) -> None:
    found = without_onnxruntime(both, photo)
    assert found.returncode == 2
    assert found.stderr == (
        "error: onnxruntime is not installed: pip install numpy onnxruntime pillow, or pass "
        "--runtime native\n"
    )
    found = without_onnxruntime(both, photo, "--runtime", "native")
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_run_py_and_the_command_line_take_a_runtime(
    native: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(native, [str(photo), "--runtime", "native"]) == 0
    expected = capsys.readouterr().out
    assert main(native, [str(photo), "--runtime", "onnx"]) == 2
    refused = capsys.readouterr().err.splitlines()[-1]
    assert refused == (
        f"error: {native} is built for the runtime native, expected onnx: pass another one, or "
        "build the bundle again with --runtime onnx"
    )
    found = primesvt("run", native, photo, "--runtime", "native", cwd=photo.parent)
    assert found.stdout == expected
    assert primesvt("run", native, photo, "--runtime", "onnx", cwd=photo.parent).returncode == 2


@pytest.mark.parametrize(
    ("runtimes", "options", "said"),
    [
        (["onnx"], {"runtime": "fast"}, "there is no runtime 'fast': pass onnx or native"),
        (None, {"runtime": "native"}, "the runtime onnx, expected native: pass another one, or"),
        (["newer"], {}, "the runtime newer, expected onnx or native: pass another one, or build"),
        (
            ["native"],
            {"profile": "latency"},
            "found the session profile 'latency' and the native runtime, which has none",
        ),
    ],
)
def test_what_a_bundle_is_not_built_for_is_one_line(
    runtimes: list[str] | None, options: dict[str, str], said: str, tmp_path: Path
) -> None:
    manifest = {} if runtimes is None else {"runtimes": runtimes}
    with pytest.raises(BundleError) as caught:
        open_model(unchecked(tmp_path, **manifest), **options)
    assert said in str(caught.value) and str(caught.value).isprintable()
