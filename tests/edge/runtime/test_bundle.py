"""Reading a bundle, and using it where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_bundles import built_bundle
from PIL import Image
from sealed_bundles import seal

from primesvt_deploy import Classifier
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.images import read_image
from primesvt_deploy.edge.runtime.main import main
from primesvt_deploy.edge.runtime.manifest import read_manifest
from primesvt_deploy.errors import BundleError, ImageError

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {allowed}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
EDGE_LACKS = {
    "torch", "spikingjelly", "torch_pruning", "onnx", "onnx_ir", "onnxscript", "safetensors",
    "jinja2", "matplotlib",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_bundle(tmp_path_factory)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    subprocess.run(["cp", "-r", str(bundle), str(target)], check=True)
    return target


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels.repeat(4, axis=0).repeat(4, axis=1)).save(path, quality=90)
    return path


def python_without(
    modules: set[str], code: str, *arguments: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process where `modules` cannot be imported."""
    script = BLOCKED.format(allowed=repr(modules)) + code
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=cwd
    )


RUN_PY = (
    "import runpy, sys\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "sys.argv = sys.argv[1:]\n"
    "sys.argv[0] += '/run.py'\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def test_run_py_needs_numpy_onnxruntime_and_pillow_alone(
    bundle: Path, jpeg: Path, tmp_path: Path
) -> None:
    alone = EDGE_LACKS | {"click", "rich", "primesvt_deploy"}
    found = python_without(
        alone, RUN_PY, str(bundle), str(jpeg), "--json", "--threads", "1", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    (expected,) = Classifier(bundle, threads=1).classify([jpeg])
    assert json.loads(found.stdout) == expected.to_dict()


def test_run_py_says_what_to_install(bundle: Path, jpeg: Path, tmp_path: Path) -> None:
    lacking = EDGE_LACKS | {"onnxruntime", "primesvt_deploy"}
    found = python_without(lacking, RUN_PY, str(bundle), str(jpeg), cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr == (
        "error: onnxruntime is not installed: pip install numpy onnxruntime pillow\n"
    )


def test_run_py_without_pillow_is_one_line(bundle: Path, jpeg: Path, tmp_path: Path) -> None:
    lacking = EDGE_LACKS | {"PIL", "primesvt_deploy"}
    found = python_without(lacking, RUN_PY, str(bundle), str(jpeg), cwd=tmp_path)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith(f"error: {jpeg}: found a JPEG and no Pillow to read it with")
    assert found.stderr.endswith("; pip install pillow\n") and found.stderr.count("\n") == 1


def test_arrays_are_classified_without_pillow(bundle: Path, tmp_path: Path) -> None:
    """Nor is it imported where it is there, before an image file is read."""
    code = (
        "import numpy as np, sys\n"
        "from primesvt_deploy.edge.runtime.predict import Classifier\n"
        "classifier = Classifier(sys.argv[1], threads=1)\n"
        "steps = classifier.preprocessing\n"
        "images = np.zeros((2, steps.resize, steps.resize, 3), np.uint8)\n"
        "logits = classifier.model.logits(steps.apply_batch(images))\n"
        "assert logits.shape == (2, len(classifier.labels))\n"
        "assert 'PIL' not in sys.modules\n"
    )
    for lacking in (EDGE_LACKS, EDGE_LACKS | {"PIL"}):
        found = python_without(lacking, code, str(bundle), cwd=tmp_path)
        assert found.returncode == 0, found.stderr


def test_the_command_line_on_an_edge_install_gives_the_same(
    bundle: Path, jpeg: Path, tmp_path: Path
) -> None:
    code = "from primesvt_deploy.cli import main; main()"
    found = python_without(
        EDGE_LACKS, code, "run", str(bundle), str(jpeg), "--json", "--threads", "1", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    (expected,) = Classifier(bundle, threads=1).classify([jpeg])
    assert json.loads(found.stdout) == expected.to_dict()


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_inspect_and_verify_work_on_an_edge_install(
    bundle: Path, tmp_path: Path, command: str
) -> None:
    code = "from primesvt_deploy.cli import main; main()"
    found = python_without(EDGE_LACKS, code, command, str(bundle), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert ("intact" if command == "verify" else "model.onnx") in found.stdout


@pytest.mark.slow
def test_bench_works_on_an_edge_install(bundle: Path, tmp_path: Path) -> None:
    code = "from primesvt_deploy.cli import main; main()"
    quick = ("--batches", "1", "--threads", "1", "--seconds", "0.3", "--rounds", "5", "--json")
    found = python_without(
        {*EDGE_LACKS, "asyncssh"}, code, "bench", str(bundle), *quick, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["bundles"][0]["manifest_sha256"] == read_manifest(bundle)["manifest_sha256"]
    assert result["variants"][0]["latency_ms"]["median"] > 0


def test_build_on_an_edge_install_says_what_to_install(tmp_path: Path) -> None:
    code = "from primesvt_deploy.cli import main; main()"
    found = python_without(EDGE_LACKS, code, "build", "--budget-mb", "4", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "pip install 'primesvt-deploy[build]'" in found.stderr


def test_predictions_are_those_of_the_model(bundle: Path, jpeg: Path) -> None:
    import torch

    from primesvt_deploy import load

    model = load(bundle)
    pixels = model.preprocessing.apply(read_image(jpeg))
    expected = model.logits(torch.from_numpy(pixels[None]))[0]
    (found,) = Classifier(bundle).classify([jpeg], top=5)
    np.testing.assert_allclose(found.logits, expected.numpy(), atol=1e-3)
    assert found.label == model.labels[int(expected.argmax())]
    assert sum(share for _, share in found.top) == pytest.approx(1.0)
    assert [share for _, share in found.top] == sorted((s for _, s in found.top), reverse=True)


@pytest.mark.parametrize(
    "name", ["model.onnx", "weights.safetensors", "run.py", "check.npz", "runtime/predict.py"]
)
def test_an_altered_file_is_refused_by_name(copy: Path, name: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for use in (lambda: Classifier(copy), lambda: check_outputs(copy)):
        with pytest.raises(BundleError, match=f"{name} was altered"):
            use()


def test_truncated_and_missing_files_are_all_named(copy: Path) -> None:
    with (copy / "model.onnx").open("r+b") as file:
        file.truncate(100)
    (copy / "plan.json").unlink()
    with pytest.raises(BundleError, match=r"model.onnx has 100 bytes.*; plan.json is missing"):
        open_bundle(copy)


def rewritten(bundle: Path, **changes: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_altered_manifest_is_refused(copy: Path) -> None:
    rewritten(copy, constraints={"met": True, "budget_bytes": 1})
    with pytest.raises(BundleError, match=r"manifest\.json was altered"):
        read_manifest(copy)


def test_another_schema_is_refused(copy: Path) -> None:
    rewritten(copy, schema="primesvt-bundle/9")
    with pytest.raises(BundleError, match=r"primesvt-bundle/9.*expected 'primesvt-bundle/1'"):
        read_manifest(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_damaged_manifest_is_refused_in_one_line(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError) as error:
        read_manifest(copy)
    assert "\n" not in str(error.value)
    assert "manifest.json" in str(error.value)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file"):
        read_manifest(tmp_path / "file")


def test_stored_outputs_are_checked(copy: Path) -> None:
    outcome = check_outputs(copy)
    assert outcome.agreeing == outcome.n > 10
    with np.load(copy / "check.npz") as stored:
        images, logits = stored["images"], stored["logits"]
    np.savez_compressed(copy / "check.npz", images=images, logits=-logits)
    seal(copy)
    with pytest.raises(BundleError, match="not the stored ones"):
        check_outputs(copy)


def test_a_photo_is_turned_as_its_exif_orientation_says(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = np.random.default_rng(4).integers(0, 256, (10, 6, 3), dtype=np.uint8)
    scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    path = tmp_path / "phone.jpg"
    Image.fromarray(scene).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    stored = read_image(path)
    upright = np.rot90(stored, -1)
    assert upright.shape == scene.shape and np.abs(upright.astype(int) - scene).mean() < 10

    classifier = Classifier(bundle, threads=1)
    lying, expected = (
        classifier.model.logits(classifier.preprocessing.apply(image)[np.newaxis])[0]
        for image in (stored, upright)
    )
    (found,) = classifier.classify([path])
    np.testing.assert_array_equal(np.asarray(found.logits, np.float32), expected)
    assert np.abs(expected - lying).max() > 1e-3
    assert main(bundle, [str(path), "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_dict()


def test_an_image_that_cannot_be_read_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        list(Classifier(bundle).classify([tmp_path / "x.jpg"]))
