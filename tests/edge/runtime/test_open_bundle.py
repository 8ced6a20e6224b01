"""One door to a bundle: nothing altered, missing, added or forged passes, whoever opens it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_bundles import built_bundle
from click.testing import CliRunner
from hostile_json import mutations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealed_bundles import files_of, seal

from primesvt_deploy import Classifier, load
from primesvt_deploy.cli import cli
from primesvt_deploy.devices.emulated_arm.images import choose_samples
from primesvt_deploy.edge.bench.configurations import open_subject
from primesvt_deploy.edge.runtime.bundle import SIGNATURE, open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.manifest import manifest_digest
from primesvt_deploy.errors import BundleError, DeployError
from primesvt_deploy.verification.bundle import verify_bundle

DOORS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "Classifier": Classifier,
    "stored outputs": check_outputs,
    "verify": verify_bundle,
    "bench": lambda bundle: open_subject(bundle, "b"),
    "emulated ARM": lambda bundle: choose_samples(bundle, count=1),
    "inspect": lambda bundle: _called("inspect", bundle),
    "run": lambda bundle: _called("run", bundle, "photo.jpg"),
}
"""Whatever reads a bundle."""


def _called(*arguments: object) -> None:
    found = CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)
    if found.exception is not None:
        raise found.exception


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_bundle(tmp_path_factory)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def refusal(use: Callable[[Path], object], bundle: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(DeployError) as caught:
        use(bundle)
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and len(said) < 1000, said
    return said


def flipped(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize("door", DOORS)
def test_one_flipped_bit_is_refused_at_every_door(bundle: Path, door: str) -> None:
    for name in ("weights.safetensors", "model.onnx", "runtime/main.py", "check.npz"):
        whole = (bundle / name).read_bytes()
        flipped(bundle / name, 7 * len(whole) // 10)
        assert f"{name} was altered" in refusal(DOORS[door], bundle)
        (bundle / name).write_bytes(whole)


@settings(derandomize=True, deadline=None, max_examples=60,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_whatever_is_done_to_a_file_is_found(bundle: Path, data: st.DataObject) -> None:
    """Any file, any byte; the manifest too, where a change may also leave it the same JSON."""
    name = data.draw(st.sampled_from(sorted([*files_of(bundle), "manifest.json"])))
    path = bundle / name
    whole = path.read_bytes()
    before = open_bundle(bundle).manifest
    kind = data.draw(st.sampled_from(("flip", "cut", "append", "remove", "move")))
    position = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    moved = path.with_name("moved")
    if kind == "flip" and whole:
        flipped(path, position)
    elif kind == "cut" and whole:
        path.write_bytes(whole[:position])
    elif kind in ("append", "flip", "cut"):
        path.write_bytes(whole + b" ")
    else:
        os.rename(path, moved) if kind == "move" else path.unlink()
    try:
        altered = open_bundle(bundle).manifest
    except BundleError as error:
        assert len(str(error).splitlines()) == 1
        altered = None
    # Blanks between tokens of JSON say nothing.
    assert altered is None or (name == "manifest.json" and altered == before)
    moved.unlink(missing_ok=True)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("model.onnx.data", lambda path: path.write_bytes(b"weights")),
        ("runtime/json.py", lambda path: path.write_text("raise SystemExit")),
        ("json.py", lambda path: path.write_text("raise SystemExit")),
        ("more/deep.txt", lambda path: path.write_text("mine")),
        ("link", lambda path: path.symlink_to("/etc", target_is_directory=True)),
        ("dangling", lambda path: path.symlink_to("nowhere")),
        ("pipe", os.mkfifo),
        ("runtime/__pycache__/hidden.py", lambda path: path.write_text("raise SystemExit")),
    ],
)
def test_what_the_manifest_does_not_list_is_refused(
    bundle: Path, name: str, make: Callable[[Path], object]
) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    make(bundle / name)
    assert f"{name} is not listed in its manifest" in refusal(open_bundle, bundle)


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "check.npz", "session.json"])
def test_a_listed_file_that_is_a_pipe_is_not_opened(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert f"{name} is no file" in refusal(open_bundle, bundle)


def test_a_manifest_that_is_a_pipe_is_not_opened(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    assert "it is a pipe" in refusal(open_bundle, bundle)


def test_compiled_code_links_to_files_and_a_signature_are_let_be(bundle: Path) -> None:
    (bundle / "runtime" / "__pycache__").mkdir()
    (bundle / "runtime" / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"compiled")
    (bundle / "native" / "build").mkdir(parents=True)  # of `make -C bundle/native`
    (bundle / "native" / "build" / "classify").write_bytes(b"program")
    (bundle / SIGNATURE).write_text("{}")
    os.rename(bundle / "model.onnx", bundle.parent / "blob")
    (bundle / "model.onnx").symlink_to(bundle.parent / "blob")  # as download caches keep files
    open_bundle(bundle)
    assert Classifier(bundle).meets_constraints


def test_a_classifier_shows_the_verdict_as_everything_else_does(bundle: Path) -> None:
    classifier = Classifier(bundle)
    constraints = classifier.manifest["constraints"]
    constraints |= {"met": True, "verdict": "met on the search split only"}
    assert repr(classifier).endswith("5 classes, constraints met on the search split only)")
    constraints["met"] = False
    assert repr(classifier).endswith("constraints NOT met)")
    constraints["met"] = True
    del constraints["verdict"]  # as bundles of earlier versions
    assert repr(classifier).endswith("constraints met)")


def test_verify_refuses_a_profile_before_it_asks_for_data(bundle: Path) -> None:
    with pytest.raises(BundleError, match="there is no session profile 'fast'"):
        _called("verify", bundle, "--profile", "fast")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.safetensors", "has no weights.safetensors"),
        ("model.onnx", "has no model.onnx"),
        ("check.npz", "has no check.npz"),
    ],
)
def test_a_manifest_that_leaves_out_what_is_used(bundle: Path, name: str, said: str) -> None:
    """Forged: with right digests. With the file there it is unlisted; without, it is missing."""
    files = {key: entry for key, entry in files_of(bundle).items() if key != name}
    seal(bundle, files=files)
    assert f"{name} is not listed" in refusal(open_bundle, bundle)
    (bundle / name).unlink()
    open_bundle(bundle)
    doors = {"model.onnx": "Classifier", "check.npz": "stored outputs"}
    assert said in refusal(DOORS[doors.get(name, "load")], bundle)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../d.npz", "runtime/../run.py", "", ".", "a//b", "a\\b", "a\nb",
             "x" * 300, "runtime/"],
)  # fmt: skip
def test_names_lead_nowhere_else(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64}
    seal(bundle, files={**files_of(bundle), name: entry})
    asked: list[str] = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **k: asked.append(str(self)) or stat(self, **k))
    assert "is not what a build writes" in refusal(open_bundle, bundle)
    assert not [path for path in asked if "passwd" in path or "d.npz" in path]


@pytest.mark.parametrize(
    "entry", [{}, {"bytes": 1}, {"sha256": "0" * 64}, None, [], {"bytes": "1", "sha256": 5},
              {"bytes": -1, "sha256": "0" * 64}, {"bytes": 1, "sha256": "G" * 64}],
)  # fmt: skip
def test_entries_without_size_or_digest_are_one_line(bundle: Path, entry: object) -> None:
    seal(bundle, files={**files_of(bundle), "model.onnx": entry})
    assert "files['model.onnx']" in refusal(open_bundle, bundle)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"images": np.zeros((1, 16, 16, 3), np.uint8)},
        {"images": np.zeros((1, 16, 16, 3), np.uint8), "logits": np.zeros((1, 4), np.float32)},
        {"images": np.zeros((0, 16, 16, 3), np.uint8), "logits": np.zeros((0, 5), np.float32)},
        {"images": np.zeros((1, 8, 16, 3), np.uint8), "logits": np.zeros((1, 5), np.float32)},
        {"images": np.zeros((1, 16, 16, 3)), "logits": np.zeros((1, 5), np.float32)},
        {"images": np.zeros(1, np.uint8), "logits": np.zeros((1, 5), np.float32)},
        {
            "images": np.zeros((1, 16, 16, 3), np.uint8),
            "logits": np.full((1, 5), np.nan, np.float32),
        },
        {"images": np.array([{}]), "logits": np.zeros((1, 5), np.float32)},
    ],
)
def test_a_check_file_that_is_none_is_one_line(bundle: Path, arrays: dict[str, Any]) -> None:
    np.savez(bundle / "check.npz", **arrays)
    seal(bundle)
    assert "check.npz is damaged" in refusal(check_outputs, bundle)


@settings(derandomize=True, deadline=None, max_examples=40,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(position=st.integers(0, 10**6), cut=st.booleans())
def test_a_damaged_check_file_is_one_line(bundle: Path, position: int, cut: bool) -> None:
    """Forged: the manifest lists it as it is."""
    path = bundle / "check.npz"
    whole = path.read_bytes()
    if cut:
        path.write_bytes(whole[: position % len(whole)])
    else:
        flipped(path, position)
    seal(bundle)
    try:
        check_outputs(bundle)
    except BundleError as error:
        assert len(str(error).splitlines()) == 1
    path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_forged_manifests_are_taken_or_refused_in_one_line(bundle: Path, door: str) -> None:
    """Altered in every way, with the right digest: nobody has signed it, so it may be valid."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    refused = 0
    for description, text in mutations(manifest, seed=list(DOORS).index(door), count=60):
        try:
            forged = json.loads(text)
            forged["manifest_sha256"] = manifest_digest(forged)
            text = json.dumps(forged)
        except (ValueError, TypeError, KeyError, RecursionError, UnicodeEncodeError):
            pass  # it stays as it is
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            DOORS[door](bundle)
        except DeployError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1, description
            assert len(str(error)) < 1000, description
    assert refused >= 20
