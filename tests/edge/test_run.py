"""A bundle's `run.py` imports checked code alone, whatever lies beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from built_bundles import built_bundle
from PIL import Image
from sealed_bundles import seal

MARK = "import os; os.open('executed', os.O_CREAT)\n"
"""Code that leaves a file in the directory that the process works in."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_bundle(tmp_path_factory)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run_py(
    bundle: Path, *arguments: str | Path, flags: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python run.py`, within a second where it is refused."""
    command = [sys.executable, *flags, str(bundle / "run.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd or bundle.parent, timeout=30
    )


def refusal(found: subprocess.CompletedProcess[str]) -> str:
    """The one line with which it was refused."""
    assert found.returncode == 2 and found.stdout == "", found
    assert found.stderr.count("\n") == 1 and found.stderr.startswith("error: "), found.stderr
    return found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-I",), ("-P",), ("-S", "-E")], ids=" ".join)
def test_it_runs_however_python_is_started(
    bundle: Path, photo: Path, flags: tuple[str, ...]
) -> None:
    packages = {"PYTHONPATH": os.pathsep.join(sys.path)} if "-S" in flags else {}
    command = [sys.executable, *(flags if "-S" not in flags else ("-S",)), "run.py", str(photo)]
    environment = {**os.environ, **packages}
    for directory in (bundle, bundle.parent):
        command[-2] = str(bundle / "run.py") if directory != bundle else "run.py"
        found = subprocess.run(
            command, capture_output=True, text=True, cwd=directory, env=environment
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith(f"{photo}: ")
    assert not (bundle / "runtime" / "__pycache__").exists()


@pytest.mark.slow
def test_a_link_to_it_and_links_in_its_place_run(bundle: Path, photo: Path) -> None:
    """As download caches keep files: under digests, with links in their places."""
    blobs = bundle.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate([p for p in bundle.rglob("*") if p.is_file()]):
        os.rename(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    found = run_py(bundle, photo)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "name", ["json.py", "numpy.py", "hashlib.py", "os.py", "runtime.py", "sitecustomize.py",
             "numpy/__init__.py", "runtime/json.py", "runtime/__init__.pyc", "importlib/util.py"],
)  # fmt: skip
def test_what_lies_beside_it_is_not_executed(bundle: Path, photo: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(MARK)
    for directory in (bundle, bundle.parent):
        said = refusal(run_py(bundle, photo, cwd=directory))
        assert f"{Path(name).name} is not listed in its manifest" in said
        assert not (directory / "executed").exists()


@pytest.mark.parametrize("name", ["main.py", "__init__.py", "errors.py", "predict.py"])
def test_altered_code_is_not_executed(bundle: Path, photo: Path, name: str) -> None:
    path = bundle / "runtime" / name
    path.write_text(MARK + path.read_text().replace("from __future__ import annotations", ""))
    assert f"{path} was altered" in refusal(run_py(bundle, photo))
    assert not (bundle.parent / "executed").exists()


@pytest.mark.slow
def test_compiled_code_is_not_executed(bundle: Path, photo: Path) -> None:
    """It would be taken for a source of the same time and size, whatever it holds."""
    for name in ("main", "__init__"):
        path = bundle / "runtime" / f"{name}.py"
        source, status = path.read_bytes(), path.stat()
        evil = MARK.encode().ljust(len(source), b"#")
        path.write_bytes(evil[: len(source)])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(path)], check=True)
        path.write_bytes(source)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(list((bundle / "runtime" / "__pycache__").iterdir())) == 2
    found = run_py(bundle, photo)
    assert found.returncode == 0, found.stderr
    assert not (bundle.parent / "executed").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"files": 1}', '{"files": {"runtime/main.py": {}}}',
             '{"files": {"runtime/main.py": {"sha256": 5}}}', "[" * 100_000, "\x00"],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(bundle: Path, photo: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    assert "manifest.json is damaged" in refusal(run_py(bundle, photo))


def test_pipes_and_missing_files_are_one_line(bundle: Path, photo: Path) -> None:
    os.rename(bundle / "runtime" / "main.py", bundle.parent / "main.py")
    assert "main.py is missing" in refusal(run_py(bundle, photo))
    os.mkfifo(bundle / "runtime" / "main.py")
    assert "main.py is missing" in refusal(run_py(bundle, photo))
    (bundle / "runtime" / "main.py").unlink()
    seal(bundle)  # forged: it does not list what is not there
    assert "main.py is missing" in refusal(run_py(bundle, photo))
    (bundle / "manifest.json").unlink()
    assert "manifest.json is missing" in refusal(run_py(bundle, photo))
    os.mkfifo(bundle / "manifest.json")
    assert "manifest.json is missing" in refusal(run_py(bundle, photo))
