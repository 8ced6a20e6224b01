"""Bundles whose digests are right and whose parts do not fit: one line, and no more happens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from native_bundles import small_bundle
from onnx import TensorProto, helper, numpy_helper
from sealed_bundles import files_of, seal

from primesvt_deploy import Classifier
from primesvt_deploy.cli import cli
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.profiles import session_json
from primesvt_deploy.errors import BundleError, DeployError

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = small_bundle(tmp_path / "bundle", ("onnx",))
    logits = Classifier(made).model.logits(np.zeros((6, 3, 16, 16), np.float32))
    np.savez(made / "check.npz", images=np.full((6, 16, 16, 3), 128, np.uint8), logits=logits)
    return seal(made)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refusal(bundle: Path, photo: Path) -> str:
    """The line with which a bundle does not classify, nor pass its stored check."""
    lines = []
    for use in (lambda: list(Classifier(bundle).classify([photo])), lambda: check_outputs(bundle)):
        with pytest.raises(DeployError) as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1
        lines.append(str(caught.value))
    return lines[0]


@pytest.mark.parametrize(
    "option",
    [
        "session.collect_node_memory_stats_to_file",
        "session.node_partition_config_file",
        "session.model_external_initializers_file_folder_path",
        "session.optimized_model_filepath",
        "ep.context_file_path",
    ],
)
@pytest.mark.parametrize("value", ["precious.txt", "1"])
def test_session_options_neither_write_nor_read_other_files(
    bundle: Path, photo: Path, option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    Path("precious.txt").write_text("mine")
    content = session_json()
    content["profiles"]["latency"]["config"] = {option: value}
    (bundle / "session.json").write_text(json.dumps(content))
    before = sorted(path.name for path in bundle.parent.iterdir())
    assert "session.json" in refusal(seal(bundle), photo)
    assert Path("precious.txt").read_text() == "mine"
    assert sorted(path.name for path in bundle.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["../../elsewhere/x", "/tmp/x", "..", "a/b", ""])
def test_a_data_set_is_named_not_located(bundle: Path, name: str) -> None:
    model = {**open_bundle(bundle).manifest["model"], "data": name}
    with pytest.raises(BundleError, match=r"model\.data is"):
        open_bundle(seal(bundle, model=model))


def graph(
    inputs: list[Any], outputs: list[Any], nodes: list[Any] | None = None, constants: Any = ()
) -> onnx.ModelProto:
    made = helper.make_graph(nodes or [], "g", inputs, outputs, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def of_logits(logits: np.ndarray, shape: tuple[Any, ...]) -> onnx.ModelProto:
    """A model that gives constant logits, whatever the image."""
    nodes = [
        helper.make_node("ReduceSum", ["images", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "constant"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        numpy_helper.from_array(logits, "constant"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    return graph([images], [out], nodes, constants)


def info(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


FLOAT = TensorProto.FLOAT
IMAGES = info("images", FLOAT, ["n", 3, 16, 16])
ODD_MODELS: dict[str, onnx.ModelProto] = {
    "nine classes": of_logits(np.zeros((1, 9), np.float32), ("n", 9)),
    "classes unsaid": of_logits(np.zeros((1, 9), np.float32), ("n", "k")),
    "NaN": of_logits(np.full((1, 5), np.nan, np.float32), ("n", 5)),
    "infinity": of_logits(np.array([[np.inf, 0, 0, 0, 0]], np.float32), ("n", 5)),
    "rank 4": graph([IMAGES], [info("o", FLOAT, ["n", 3, 16, 16])],
                    [helper.make_node("Identity", ["images"], ["o"])]),
    "double": graph([IMAGES], [info("o", TensorProto.DOUBLE, ["n", 3, 16, 16])],
                    [helper.make_node("Cast", ["images"], ["o"], to=TensorProto.DOUBLE)]),
    "two inputs": graph([IMAGES, info("b", FLOAT, [1])], [info("o", FLOAT, ["n", 3, 16, 16])],
                        [helper.make_node("Add", ["images", "b"], ["o"])]),
    "no input": graph([], [info("o", FLOAT, [1, 5])],
                      [helper.make_node("Constant", [], ["o"], value=numpy_helper.from_array(
                          np.zeros((1, 5), np.float32)))]),
    "other size": graph([info("images", FLOAT, ["n", 3, 8, 8])], [info("o", FLOAT, ["n", 5])],
                        [helper.make_node("Reshape", ["images", "s"], ["o"])],
                        [numpy_helper.from_array(np.array([-1, 5]), "s")]),
    "does not run": graph([IMAGES], [info("o", FLOAT, ["n", 5])],
                          [helper.make_node("Reshape", ["images", "s"], ["o"])],
                          [numpy_helper.from_array(np.array([7, 5]), "s")]),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_MODELS)
def test_a_model_of_other_ends_is_refused(bundle: Path, photo: Path, name: str) -> None:
    onnx.save(ODD_MODELS[name], bundle / "model.onnx")
    refusal(seal(bundle), photo)
    found = CliRunner().invoke(cli, ["run", str(bundle), str(photo), "--json"])
    assert "NaN" not in found.output and "Infinity" not in found.output


@pytest.mark.parametrize("runtimes", [[], ["newer"], [5], None, "onnx"])
def test_a_bundle_for_no_runtime_is_refused(bundle: Path, photo: Path, runtimes: object) -> None:
    assert "runtime" in refusal(seal(bundle, runtimes=runtimes), photo)


@pytest.mark.parametrize("listed", [True, False])
def test_weights_in_other_files_are_not_read(bundle: Path, photo: Path, listed: bool) -> None:
    model = of_logits(np.arange(5, dtype=np.float32)[None], ("n", 5))
    onnx.save(
        model, bundle / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    if not listed:
        (bundle / "w.bin").rename(bundle.parent / "w.bin")
    assert "has weights in other files" in refusal(seal(bundle), photo)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": list("abcd")},
        {"labels": []},
        {"labels": list("abcdef")},
        {"preprocessing": {"height": 32, "width": 32, "resize": 32}},
        {"preprocessing": {"mean": [0.5], "std": [0.5]}},
        {"preprocessing": {"pixels": True}},
    ],
    ids=str,
)
def test_a_manifest_of_another_model_is_refused(
    bundle: Path, photo: Path, changes: dict[str, Any]
) -> None:
    model = dict(open_bundle(bundle).manifest["model"])
    for key, value in changes.items():
        model[key] = {**model[key], **value} if isinstance(value, dict) else value
    refusal(seal(bundle, model=model), photo)


def test_an_empty_model_is_refused(bundle: Path, photo: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"")
    refusal(seal(bundle), photo)


@pytest.mark.parametrize("name", ["native/svit_zz.c", "empty", "runtime/more"])
def test_an_empty_directory_is_not_listed(bundle: Path, name: str) -> None:
    (bundle / name).mkdir(parents=True)
    with pytest.raises(BundleError, match="is not listed in its manifest"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name", ["runtime/../../secret.txt", "runtime//etc/hostname", "runtime/a/b.py", "runtime/x.txt"]
)
def test_run_py_reads_its_own_files_alone(tmp_path: Path, name: str) -> None:
    from primesvt_deploy.edge import run

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (bundle / "run.py").write_bytes(Path(run.__file__).read_bytes())
    entry = {"bytes": 6, "sha256": "0" * 64}
    seal(bundle, files={**files_of(bundle), name: entry})
    ended = subprocess.run(
        [sys.executable, str(bundle / "run.py"), "x.png"], capture_output=True, text=True
    )
    assert ended.returncode == 2 and "manifest.json is damaged" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_full_disk_or_a_reader_that_leaves_is_no_traceback(bundle: Path, photo: Path) -> None:
    code = "from primesvt_deploy.edge.runtime.main import main\n"
    code += f"raise SystemExit(main({str(bundle)!r}))"
    for target, statuses in (("> /dev/full", (2,)), ("| true", (0, 1))):
        line = f'"{sys.executable}" -c "{code}" {photo} {target}; exit ${{PIPESTATUS[0]}}'
        ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert ended.returncode in statuses, ended.stderr
        assert "Traceback" not in ended.stderr and ended.stderr.count("\n") <= 1
