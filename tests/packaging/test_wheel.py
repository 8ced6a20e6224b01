"""The wheel: what is in it, and that it works in fresh environments with and without the extras.

Nothing is downloaded: an environment sees, by links, the distributions that the wheel demands and
that are installed where the tests run, and no others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from small_models import LABELS, SHALLOW, make_model, write_arrays, write_model_directory

from primesvt_deploy.version import __version__

ROOT = Path(__file__).parents[2]

IMPORTED_TO_CLASSIFY = {"PIL", "numpy", "onnxruntime"}
"""Modules of other projects that classifying an image file imports."""

THIRD_PARTY = """
import json, sys, sysconfig

def third_party():
    places = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return sorted({
        name.partition(".")[0] for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(places)
    } - {"primesvt_deploy"})
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    directory = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def edge(wheel: Path, metadata: Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with `pip install primesvt-deploy`."""
    return _environment(tmp_path_factory.mktemp("edge"), wheel, _demanded(metadata, ""))


@pytest.fixture(scope="module")
def bundle(wheel: Path, metadata: Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that an environment with `pip install 'primesvt-deploy[build]'` has built."""
    directory = tmp_path_factory.mktemp("build")
    model = make_model(SHALLOW)
    write_model_directory(directory / "model", model)
    write_arrays(directory / "d.npz", model, count=100)
    build = _environment(directory / "venv", wheel, _demanded(metadata, "build"))
    names = ("build", "--model", "model", "--data", "d.npz", "--budget-mb", "1")
    _run(build / "primesvt-deploy", *names, "--output", "bundle", cwd=directory)
    return directory / "bundle"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_the_wheel_has_the_package_and_the_models_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
    tracked = _tracked("primesvt_deploy") | {
        f"primesvt_deploy/{name}" for name in _tracked("models")
    }
    assert held == tracked
    assert {
        "primesvt_deploy/py.typed",
        "primesvt_deploy/devices/emulated_arm/instructions.c",
        "primesvt_deploy/report/report.css",
        "primesvt_deploy/report/report.html.j2",
        "primesvt_deploy/models/data/cifar10.npz",
    } <= held


def test_the_wheel_says_what_it_is(wheel: Path, metadata: Message) -> None:
    assert wheel.name == f"primesvt_deploy-{__version__}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"build", "dev", "sign", "ssh"}
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/LICENSE"))
        assert "Apache License" in archive.read(name).decode()


@pytest.mark.slow
def test_the_edge_install_runs_a_bundle_of_the_build_install(
    edge: Path, bundle: Path, photo: Path
) -> None:
    shown = _run(edge / "primesvt-deploy", "--help", cwd=photo.parent)
    assert all(command in shown for command in ("build", "run", "verify", "bench"))
    found = _run(edge / "primesvt-deploy", "run", bundle, photo, "--json", cwd=photo.parent)
    assert json.loads(found)["label"] in LABELS
    assert "intact" in _run(edge / "primesvt-deploy", "verify", bundle, cwd=photo.parent)


@pytest.mark.slow
def test_classifying_imports_numpy_onnxruntime_and_pillow(
    edge: Path, bundle: Path, photo: Path
) -> None:
    script = THIRD_PARTY + (
        "from primesvt_deploy.edge.runtime.predict import Classifier\n"
        "before = third_party()\n"
        "list(Classifier(sys.argv[1], threads=1).classify([sys.argv[2]]))\n"
        "print(json.dumps([before, third_party()]))\n"
    )
    found = _run(edge / "python", "-c", script, bundle, photo, cwd=photo.parent)
    imported, after = json.loads(found)
    assert imported == ["numpy"]  # onnxruntime: when a model is opened; Pillow: an image
    assert after == sorted(IMPORTED_TO_CLASSIFY)


def _run(*command: str | Path, cwd: Path) -> str:
    """What `command` prints; it must succeed, and sees no packages but its environment's own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=kept, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _tracked(folder: str) -> set[str]:
    """The files of a folder, less what Python writes beside its sources."""
    return {
        str(f.relative_to(ROOT))
        for f in (ROOT / folder).rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }


def _demanded(metadata: Message, extra: str) -> set[str]:
    """Names of the distributions that an install with `extra` brings, in the end."""
    found: set[str] = set()
    pending = [(r, extra) for r in metadata.get_all("Requires-Dist", [])]
    while pending:
        text, of = pending.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of}):
            continue
        name = canonicalize_name(requirement.name)
        needs = distribution(name).requires or []
        pending += [(r, e) for e in requirement.extras for r in needs]
        if name not in found:
            found.add(name)
            pending += [(r, "") for r in needs]
    return found


def _environment(directory: Path, wheel: Path, distributions: Iterable[str]) -> Path:
    """A fresh environment that has the wheel and `distributions`; its `bin`."""
    venv.create(directory, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(directory), "platbase": str(directory)})
    packages = Path(paths["purelib"])
    for name in distributions:
        _link(name, packages)
    pip = (sys.executable, "-m", "pip", "--python", directory / "bin" / "python")
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=directory)
    _run(*pip, "check", cwd=directory)
    return directory / "bin"


def _link(name: str, packages: Path) -> None:
    """Make an installed distribution visible in `packages`.

    Each of its packages is one link; namespaces such as `google` are folders of links.
    """
    found = distribution(name)
    for file in found.files or []:
        if ".." in file.parts:
            continue  # a script in bin
        source, target = Path(str(found.locate_file(""))), packages
        for part in file.parts:
            source, target = source / part, target / part
            if target.is_symlink():
                break
            if source.is_file() or _is_whole(source):
                target.symlink_to(source)
                break
            target.mkdir(exist_ok=True)


def _is_whole(directory: Path) -> bool:
    """Whether a folder of site-packages belongs to one distribution."""
    return (directory / "__init__.py").exists() or directory.suffix in (".dist-info", ".libs")
