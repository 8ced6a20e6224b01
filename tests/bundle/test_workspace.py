"""A build's bundle stands at its place whole or not at all, and nothing of the user's is lost."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from sealed_bundles import seal

from primesvt_deploy.bundle import workspace as module
from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.errors import OutputError, SettingsError


def write_bundle(directory: Path, content: str = "graph") -> Path:
    """The least that counts as a bundle: a file and a manifest that lists it."""
    (directory / "runtime").mkdir(parents=True)
    (directory / "model.onnx").write_text(content)
    (directory / "runtime" / "main.py").write_text("pass\n")
    open_bundle(seal(directory))
    return directory


def stage(workspace: Workspace, content: str = "new") -> Path:
    staged = workspace.staging()
    (staged / "model.onnx").write_text(content)
    return staged


def refused(output: Path, *, force: bool) -> str:
    """The one line with which a build to `output` is refused, before it starts."""
    with pytest.raises(OutputError) as caught:
        Workspace(output, force=force)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_finished_bundle_is_moved_and_the_working_directory_removed(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "er" / "bundle"
    with Workspace(output, force=False) as workspace:
        assert workspace.path == tmp_path / "deep" / "er" / "bundle.work"
        workspace.ledger_path("f" * 64).write_text("{}\n")
        (workspace.path / "dense.onnx").write_text("dense")
        staged = stage(workspace)
        assert not output.exists()
        workspace.place(staged)
    assert (output / "model.onnx").read_text() == "new"
    assert os.listdir(output.parent) == ["bundle"]


@pytest.mark.parametrize("kind", ["bundle", "directory", "file", "link", "dangling link"])
def test_nothing_is_replaced_without_force(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "bundle":
        write_bundle(output)
    elif kind == "directory":
        output.mkdir()
    elif kind == "file":
        output.write_text("mine")
    else:
        target = tmp_path / "elsewhere"
        if kind == "link":
            target.mkdir()
        output.symlink_to(target)
    message = refused(output, force=False)
    if kind in ("bundle", "directory"):
        assert f"{output} exists: pass another --output, or --force" in message
    else:
        assert f"{output} is not a directory: pass another --output" in message  # no --force helps
    assert os.path.lexists(output)
    assert not (tmp_path / "out.work").exists()


def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    output = write_bundle(tmp_path / "out", "old")
    cache = output / "runtime" / "__pycache__"
    cache.mkdir()
    (cache / "main.pyc").write_bytes(b"compiled")
    with Workspace(output, force=True) as workspace:
        staged = stage(workspace)
        assert (output / "model.onnx").read_text() == "old", "replaced before the new one is whole"
        workspace.place(staged)
    assert sorted(os.listdir(output)) == ["model.onnx"]
    assert (output / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_force_replaces_an_empty_directory(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with Workspace(output, force=True) as workspace:
        workspace.place(stage(workspace))
    assert (output / "model.onnx").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("notes.txt", "notes.txt"),
        ("runtime/mine.py", "runtime/mine.py"),
        ("new/deep.txt", "new/"),
        ("link", "link"),
    ],
)
def test_force_refuses_a_bundle_in_which_a_file_of_the_user_lies(
    tmp_path: Path, name: str, shown: str
) -> None:
    output = write_bundle(tmp_path / "out")
    mine = output / name
    mine.parent.mkdir(exist_ok=True)
    if name == "link":
        mine.symlink_to(tmp_path, target_is_directory=True)
    else:
        mine.write_text("mine")
    message = refused(output, force=True)
    assert f"({shown})" in message
    assert "--force replaces bundles only" in message
    assert os.path.lexists(mine)


def test_force_refuses_a_directory_that_is_no_bundle(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    assert "holds what no build wrote (thesis.tex)" in refused(output, force=True)
    assert (output / "thesis.tex").read_text() == "mine"


def test_force_refuses_a_directory_whose_manifest_was_altered(tmp_path: Path) -> None:
    output = write_bundle(tmp_path / "out")
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["files"]["photo.jpg"] = {"sha256": "0", "bytes": 1}
    (output / "manifest.json").write_text(json.dumps(manifest))
    (output / "photo.jpg").write_text("mine")
    assert "holds what no build wrote" in refused(output, force=True)
    assert (output / "photo.jpg").exists()


@pytest.mark.parametrize("kind", ["file", "link to a bundle", "dangling link"])
def test_force_refuses_what_is_no_directory(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("mine")
    else:
        target = tmp_path / "elsewhere"
        if kind == "link to a bundle":
            write_bundle(target)
        output.symlink_to(target)
    assert f"{output} is not a directory: pass another --output" in refused(output, force=True)
    assert os.path.lexists(output)


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
@pytest.mark.parametrize("force", [False, True])
def test_working_directory_that_is_not_ours(tmp_path: Path, kind: str, force: bool) -> None:
    work = tmp_path / "out.work"
    if kind == "directory":
        work.mkdir()
        (work / "bundle").mkdir()
        (work / "bundle" / "mine.txt").write_text("mine")
    elif kind == "file":
        work.write_text("mine")
    else:
        work.symlink_to(tmp_path / "nowhere")
    message = refused(tmp_path / "out", force=force)
    assert str(work) in message
    if kind == "directory":
        assert "is not a build's: move it away" in message
        assert (work / "bundle" / "mine.txt").read_text() == "mine"
    assert os.path.lexists(work)


@pytest.mark.parametrize("output", ["/", "file/out", "x" * 300, "/proc/out", "a\0b", "\ud800"])
def test_places_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    refused(Path(output), force=False)
    refused(Path(output), force=True)


LEDGER = "ledger-0123456789abcdef.jsonl"


def left_in(work: Path, *names: str) -> Path:
    """A working directory without a marker, with these entries; a name that ends with / is one."""
    work.mkdir()
    for name in names:
        if name.endswith("/"):
            (work / name).mkdir()
        else:
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text("left")
    return work


@pytest.mark.parametrize(
    "names",
    [
        (),
        (LEDGER,),
        (LEDGER, "previous/model.onnx", "candidates/int8.onnx"),
        (LEDGER, "ledger-fedcba9876543210.jsonl", "dense.onnx", "dense.onnx.partial"),
        (LEDGER, "checkpoints/finetune-1.pt", "candidates/"),
    ],
)
def test_what_a_kill_left_without_a_marker_is_taken_over(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    output = write_bundle(tmp_path / "out", "old")
    left_in(tmp_path / "out.work", *names)
    with Workspace(output, force=True) as workspace:
        workspace.place(stage(workspace))
    assert (output / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "names",
    [
        ("bundle/",),
        ("dense.onnx",),
        ("checkpoints/mine.pt",),
        (LEDGER, "notes.txt"),
        (LEDGER, "bundle/mine.txt"),
        (LEDGER, "dense.onnx.bak"),
        (LEDGER, "dense.onnx/"),
        (LEDGER, "ledger-mine.jsonl"),
        ("ledger-0123456789ABCDEF.jsonl",),
        (f"{LEDGER}/mine.jsonl",),
        ("primesvt-deploy.work/",),
    ],
)
def test_what_may_be_the_users_is_not_taken_over(tmp_path: Path, names: tuple[str, ...]) -> None:
    work = left_in(tmp_path / "out.work", *names)
    before = sorted(str(path) for path in work.rglob("*"))
    for force in (False, True):
        assert "is not a build's: move it away" in refused(tmp_path / "out", force=force)
    assert sorted(str(path) for path in work.rglob("*")) == before


@pytest.mark.parametrize("to", ["a working directory", "an empty directory"])
def test_a_link_is_no_working_directory(tmp_path: Path, to: str) -> None:
    target = left_in(tmp_path / "target", *(["primesvt-deploy.work"] if "working" in to else []))
    (tmp_path / "out.work").symlink_to(target, target_is_directory=True)
    assert "is not a build's: move it away" in refused(tmp_path / "out", force=True)
    assert (tmp_path / "out.work").is_symlink() and target.is_dir()


@pytest.mark.parametrize("name", ["previous", "bundle", "candidates", "checkpoints", LEDGER])
def test_a_link_where_a_build_writes_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    output = write_bundle(tmp_path / "out")
    work = left_in(tmp_path / "out.work", "primesvt-deploy.work")
    (work / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is not what a build writes there") as caught:
        Workspace(output, force=True).__enter__()
    assert f"{work / name}" in str(caught.value) and "\n" not in str(caught.value)
    assert (work / name).is_symlink() and (output / "model.onnx").is_file()


class TestKilledAfterTheMove:
    """A bundle stands at its place; the rest of its build's files were not removed any more."""

    @pytest.fixture
    def output(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        output = write_bundle(tmp_path / "out", "old")
        workspace = Workspace(output, force=True)
        with monkeypatch.context() as patch, workspace:
            patch.setattr(Workspace, "_clear", lambda _: None)
            workspace.ledger_path("a" * 64).write_text("{}\n")
            workspace.place(write_bundle(workspace.path / "bundle", "new"))
        assert (workspace.path / "previous" / "model.onnx").read_text() == "old"
        return output

    def test_a_call_that_is_refused_removes_them(self, output: Path) -> None:
        assert "exists: pass another --output" in refused(output, force=False)
        assert os.listdir(output.parent) == ["out"]
        assert (output / "model.onnx").read_text() == "new"

    def test_but_not_while_another_build_holds_them(self, output: Path) -> None:
        with Workspace(output, force=True) as workspace:
            refused(output, force=False)
            assert workspace.ledger_path("a" * 64).is_file()

    def test_the_bundle_before_is_not_put_back(self, output: Path) -> None:
        output.rename(output.with_name("moved"))
        with Workspace(output, force=False) as workspace:
            assert not output.exists()
            assert workspace.ledger_path("a" * 64).is_file()

    def test_of_an_interrupted_build_nothing_is_removed(self, output: Path) -> None:
        with pytest.raises(KeyboardInterrupt), Workspace(output, force=True):
            raise KeyboardInterrupt
        refused(output, force=False)
        assert (output.with_name("out.work") / f"ledger-{'a' * 16}.jsonl").is_file()


def test_an_interrupt_between_both_moves_leaves_the_older_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = write_bundle(tmp_path / "out", "old")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(source).name == "bundle":
            raise KeyboardInterrupt
        replace(source, target)

    with pytest.raises(KeyboardInterrupt), Workspace(output, force=True) as workspace:
        staged = stage(workspace)
        monkeypatch.setattr(module.os, "replace", interrupted)
        workspace.place(staged)
    assert (output / "model.onnx").read_text() == "old"


def test_a_file_that_cannot_be_removed_keeps_the_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "no", str(path))

    with Workspace(output, force=False) as workspace:
        workspace.candidates()
        staged = stage(workspace)
        with monkeypatch.context() as patch:
            patch.setattr(module.shutil, "rmtree", refuse)
            workspace.place(staged)
    assert (output / "model.onnx").read_text() == "new"
    assert (workspace.path / "primesvt-deploy.work").is_file()
    refused(output, force=False)
    assert os.listdir(tmp_path) == ["out"]


def test_a_build_that_ends_does_not_remove_what_the_next_one_began(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out", force=True) as first:
        first.place(write_bundle(first.path / "bundle"))
        with Workspace(tmp_path / "out", force=True) as second:
            first.__exit__(None, None, None)
            assert second.path.is_dir()
            with pytest.raises(OutputError, match="another build is writing"):
                Workspace(tmp_path / "out", force=True).__enter__()


@pytest.mark.parametrize("seconds", [-(10**9), 10**9])
def test_a_clock_that_was_set_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    output = write_bundle(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt), Workspace(output, force=True) as workspace:
        workspace.ledger_path("a" * 64).write_text("{}\n")
        stage(workspace, "half")
        raise KeyboardInterrupt
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)
    for path in (output, *tmp_path.rglob("*")):
        os.utime(path, (now - seconds, now - seconds))
    with Workspace(output, force=True) as again:
        assert again.ledger_path("a" * 64).read_text() == "{}\n"
        again.place(stage(again))
    assert (output / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_relative_output_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with Workspace("out", force=False) as workspace:
        staged = stage(workspace)
        monkeypatch.chdir(tmp_path / "other")
        workspace.place(staged)
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_second_build_on_the_same_output_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Workspace(output, force=False) as first:
        staged = stage(first)
        second = Workspace(output, force=False)
        with pytest.raises(OutputError, match="another build is writing") as caught, second:
            pass
        assert "\n" not in str(caught.value)
        assert (staged / "model.onnx").is_file(), "the second build cleared the first one's work"
    with Workspace(output, force=False):
        pass


def test_builds_on_other_outputs_are_not_in_each_others_way(tmp_path: Path) -> None:
    with Workspace(tmp_path / "a", force=False), Workspace(tmp_path / "b", force=False):
        pass


def test_ledger_survives_an_interrupted_build(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), Workspace(output, force=False) as workspace:
        ledger = workspace.ledger_path("a" * 64)
        ledger.write_text("{}\n")
        stage(workspace, "half")
        raise KeyboardInterrupt
    assert not output.exists()
    with Workspace(output, force=False) as again:
        assert again.ledger_path("a" * 64) == ledger
        assert ledger.read_text() == "{}\n"
        staged = again.staging()
        assert os.listdir(staged) == [], "half-written files of the interrupted build are left"


def test_a_build_refused_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError), Workspace(tmp_path / "b", force=False):
        raise SettingsError("no such thing")
    assert not list(tmp_path.iterdir())


def test_each_question_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out", force=False) as workspace:
        paths = {workspace.ledger_path(digit * 64) for digit in "abc"}
    assert len(paths) == 3


def test_what_the_user_put_in_the_working_directory_is_not_deleted(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Workspace(output, force=False) as workspace:
        (workspace.path / "notes.txt").write_text("mine")
        (workspace.path / "notes").mkdir()
        (workspace.path / "notes" / "more.txt").write_text("mine too")
        workspace.ledger_path("a" * 64).write_text("{}\n")
        workspace.place(stage(workspace))
    assert (output / "model.onnx").is_file()
    assert sorted(os.listdir(workspace.path)) == ["notes", "notes.txt"]
    assert (workspace.path / "notes" / "more.txt").read_text() == "mine too"


@pytest.mark.parametrize("force", [False, True])
def test_what_came_to_stand_at_the_output_during_the_build_is_kept(
    tmp_path: Path, force: bool
) -> None:
    output = tmp_path / "out"
    with Workspace(output, force=force) as workspace:
        staged = stage(workspace)
        output.mkdir()
        (output / "mine.txt").write_text("mine")
        with pytest.raises(OutputError):
            workspace.place(staged)
    assert (output / "mine.txt").read_text() == "mine"
    assert (staged / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("failing", [1, 2])
def test_old_bundle_stands_where_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, number: int
) -> None:
    output = write_bundle(tmp_path / "out", "old")
    calls = 0
    replace = os.replace

    def as_on_a_mount_point(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(number, os.strerror(number))
        replace(source, target)

    with Workspace(output, force=True) as workspace:
        staged = stage(workspace)
        monkeypatch.setattr(module.os, "replace", as_on_a_mount_point)
        with pytest.raises(OutputError) as caught:
            workspace.place(staged)
    assert "\n" not in str(caught.value)
    assert str(staged) in str(caught.value)
    assert (output / "model.onnx").read_text() == "old"
    assert (staged / "model.onnx").read_text() == "new"
