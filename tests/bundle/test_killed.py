"""A build that is killed at any of its changes to files is made again by the same call."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundle.test_workspace import write_bundle as write_least
from killed_children import changes, ended, kills
from sealed_bundles import LEAST
from small_models import SHALLOW, make_model

import primesvt_deploy.edge.runtime
from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.bundle.write import BundleParts, write_bundle
from primesvt_deploy.edge.runtime.bundle import file_digest, open_bundle
from primesvt_deploy.edge.runtime.manifest import read_manifest
from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import OutputError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger

pytestmark = pytest.mark.slow

KEY = "a" * 64


@pytest.fixture(scope="module")
def shallow() -> SViT:
    return make_model(SHALLOW)


@pytest.fixture
def small_runtime(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files instead of all that a bundle's runtime has: a kill at each tells nothing new."""
    source = tmp_path_factory.mktemp("runtime")
    for name in ("__init__.py", "main.py"):
        (source / name).write_text("pass\n")
    monkeypatch.setattr(primesvt_deploy.edge.runtime, "__file__", str(source / "__init__.py"))


def build(model: SViT, output: Path, *, force: bool, title: str = "new") -> None:
    """What a build does to files, in its order; a search of two candidates."""
    with Workspace(output, force=force) as workspace:
        write_whole(workspace.path / "dense.onnx", b"dense")
        ledger = Ledger(workspace.ledger_path(KEY))
        for plan in ("one", "two"):
            if ledger.find(plan, 8) is None:
                ledger.append(candidate(plan))
        (workspace.candidates() / "fp32.onnx").write_bytes(b"graph")
        write_whole(workspace.checkpoints() / "finetune-1.pt", b"state")
        staged = workspace.staging()
        (staged / "model.onnx").write_bytes(b"graph")
        write_bundle(staged, parts(model, workspace.ledger_path(KEY), title))
        workspace.place(staged)


def candidate(plan: str) -> Candidate:
    return Candidate(
        plan=plan, limit=8, step="greedy", correct=4, lost=2, gained=1, n=8,
        seconds=0.1,
    )  # fmt: skip


def parts(model: SViT, ledger: Path, title: str) -> BundleParts:
    return BundleParts(
        model=model,
        quantized=None,
        stages={},
        manifest={**LEAST, "title": title},
        session={},
        plan={"kept": {}},
        ledger=ledger,
        report=title,
        report_content=title.encode(),
        check_images=np.zeros((1, 16, 16, 3), np.uint8),
        check_logits=np.zeros((1, 5), np.float32),
    )


def digests(bundle: Path) -> dict[str, str]:
    """SHA-256 of the files of a bundle, which is whole."""
    open_bundle(bundle)
    files = (path for path in bundle.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): file_digest(path) for path in files}


@pytest.fixture
def whole(shallow: SViT, small_runtime: None, tmp_path: Path) -> dict[str, str]:
    """Digests of a bundle that nothing disturbed."""
    build(shallow, tmp_path / "whole" / "out", force=False)
    return digests(tmp_path / "whole" / "out")


def check(output: Path, whole: dict[str, str]) -> None:
    """The bundle is whole, and nothing else is there."""
    assert digests(output) == whole
    assert os.listdir(output.parent) == [output.name]


class TestEveryKill:
    """The number of changes is not known to the tests; they go on until none kills."""

    def test_without_a_bundle_there(
        self, shallow: SViT, tmp_path: Path, whole: dict[str, str]
    ) -> None:
        output = tmp_path / "here" / "out"
        output.parent.mkdir()
        again = partial(build, shallow, output, force=False)
        killed = placed = 0
        for _ in kills(output.parent, again):
            killed += 1
            if output.exists():
                placed += 1
                assert digests(output) == whole
                with pytest.raises(OutputError, match="exists: pass another --output"):
                    again()
            else:
                again()
            check(output, whole)
            shutil.rmtree(output)
        assert killed > 20 and placed > 5

    def test_over_an_older_bundle(
        self, shallow: SViT, tmp_path: Path, whole: dict[str, str]
    ) -> None:
        output = tmp_path / "here" / "out"
        build(shallow, output, force=False, title="old")
        old = digests(shutil.copytree(output, tmp_path / "old"))
        assert old != whole
        again = partial(build, shallow, output, force=True)
        killed = set_aside = 0
        for _ in kills(output.parent, again):
            killed += 1
            previous = output.with_name("out.work") / "previous"
            set_aside += not output.exists()
            assert digests(output if output.exists() else previous) in (old, whole)
            again()
            check(output, whole)
            shutil.rmtree(output)
            shutil.copytree(tmp_path / "old", output)
        assert killed > 20 and set_aside == 1


@pytest.mark.parametrize("force", [False, True])
def test_a_second_build_at_any_moment_of_the_first(tmp_path: Path, force: bool) -> None:
    output = tmp_path / "here" / "out"
    output.parent.mkdir()

    def attempt(note: str) -> None:
        try:
            build_least(output, force=force)
        except OutputError as error:
            assert "\n" not in str(error)
        else:
            with (tmp_path / "made").open("a") as file:
                file.write(note)

    def second() -> None:
        assert ended(lambda: attempt("second "), tmp_path / "none") == "ended"

    found = set()
    for number in range(1, changes(output.parent, lambda: attempt("first ")) + 1):
        shutil.rmtree(output)
        (tmp_path / "made").unlink()
        if force:
            build_least(output, force=True)
        assert ended(lambda: attempt("first "), output.parent, number, then=second) == "ended"
        assert read_manifest(output)
        assert os.listdir(output.parent) == ["out"]
        found.add((tmp_path / "made").read_text())
    assert found == ({"first ", "second first "} if force else {"first ", "second "})


def build_least(output: Path, *, force: bool) -> None:
    """A build of a few files."""
    with Workspace(output, force=force) as workspace:
        Ledger(workspace.ledger_path(KEY)).append(candidate("one"))
        workspace.place(write_least(workspace.staging()))


@pytest.mark.parametrize("room", [0, 6, 100, 1000, 5000])
def test_a_full_disk_leaves_the_older_bundle(
    shallow: SViT, tmp_path: Path, whole: dict[str, str], room: int
) -> None:
    output = tmp_path / "here" / "out"
    build(shallow, output, force=False, title="old")
    old = digests(output)

    def with_little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(OutputError, match="File too large"):
            build(shallow, output, force=True)

    assert ended(with_little_room, output.parent) == "ended"
    assert digests(output) == old
    build(shallow, output, force=True)
    check(output, whole)
