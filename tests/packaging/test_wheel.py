"""The wheels: what is in them, and that they work in fresh environments with and without extras.

Nothing is downloaded: an environment sees, by links, the distributions that the wheel demands and
that are installed where the tests run, and no others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
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

from primesvt_deploy.model.reference_models import DEFAULT_MODEL
from primesvt_deploy.version import __version__

ROOT = Path(__file__).parents[2]

MOST_BYTES = 1_200_000
"""Of the wheel that a device gets."""

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
    return _built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def models_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the reference models, built from this tree."""
    return _built(ROOT / "models", tmp_path_factory.mktemp("models"))


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
def build(wheel: Path, metadata: Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with `pip install 'primesvt-deploy[build]'`."""
    return _environment(tmp_path_factory.mktemp("build"), wheel, _demanded(metadata, "build"))


@pytest.fixture(scope="module")
def bundle(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was built there."""
    directory = tmp_path_factory.mktemp("built")
    model = make_model(SHALLOW)
    write_model_directory(directory / "model", model)
    write_arrays(directory / "d.npz", model, count=100)
    names = ("build", "--model", "model", "--data", "d.npz", "--budget-mb", "1")
    _run(build / "primesvt-deploy", *names, "--output", "bundle", cwd=directory)
    return directory / "bundle"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    held = _held(wheel)
    assert held == _tracked("primesvt_deploy")
    assert {
        "primesvt_deploy/py.typed",
        "primesvt_deploy/devices/emulated_arm/instructions.c",
        "primesvt_deploy/report/templates/report.css",
        "primesvt_deploy/report/templates/report.html.j2",
        "primesvt_deploy/report/templates/report.js",
    } <= held
    assert wheel.stat().st_size < MOST_BYTES


def test_the_wheel_of_models_has_them_without_their_training(models_wheel: Path) -> None:
    assert models_wheel.name == f"primesvt_deploy_models-{__version__}-py3-none-any.whl"
    held = _held(models_wheel)
    expected = {
        f"primesvt_deploy_models/{name.removeprefix('models/')}"
        for name in _tracked("models") - {"models/pyproject.toml", "models/LICENSE"}
        if "/training/" not in name
    }
    assert held == expected
    assert {
        f"primesvt_deploy_models/{DEFAULT_MODEL}/weights.safetensors",
        f"primesvt_deploy_models/{DEFAULT_MODEL}/README.md",
        "primesvt_deploy_models/data/cifar10.npz",
    } <= held
    assert (ROOT / "models" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / source.name.removesuffix(".tar.gz")
    assert _held(_built(unpacked, tmp_path / "wheel")) == _held(wheel)
    assert {path.name for path in unpacked.iterdir()} == {
        ".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md",
        "primesvt_deploy", "pyproject.toml",
    }  # fmt: skip


def test_the_wheel_says_what_it_is(wheel: Path, metadata: Message) -> None:
    assert wheel.name == f"primesvt_deploy-{__version__}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2606.03428"]
    assert set(metadata.get_all("Provides-Extra", [])) == {"build", "cluster", "dev", "sign", "ssh"}
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/LICENSE"))
        assert "Apache License" in archive.read(name).decode()


def test_the_description_leads_nowhere_on_a_package_index(metadata: Message) -> None:
    """Pictures and links of the repository would be broken there."""
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    assert "primesvt-deploy build" in text
    assert re.findall(r"\]\((?!https://)", text) == []


@pytest.mark.slow
def test_the_edge_install_runs_a_bundle_of_the_build_install(
    edge: Path, bundle: Path, photo: Path
) -> None:
    shown = _run(edge / "primesvt-deploy", "--help", cwd=photo.parent)
    assert all(command in shown for command in ("build", "run", "verify", "bench"))
    found = _run(edge / "primesvt-deploy", "run", bundle, photo, "--json", cwd=photo.parent)
    assert json.loads(found)["label"] in LABELS
    assert "intact" in _run(edge / "primesvt-deploy", "verify", bundle, cwd=photo.parent)


def test_an_edge_install_says_what_a_build_needs(edge: Path, tmp_path: Path) -> None:
    script = (
        "import primesvt_deploy as svit\n"
        "try:\n    svit.load()\n"
        "except (svit.DeployError, ImportError) as error:\n    print(error)\n"
    )
    (line,) = _run(edge / "python", "-c", script, cwd=tmp_path).splitlines()
    assert line.startswith("primesvt_deploy.load needs ")
    assert line.endswith("edge install leaves out: pip install 'primesvt-deploy[build]'")


@pytest.mark.slow
def test_reference_models_are_installed_beside_the_build_install(
    build: Path, models_wheel: Path, tmp_path: Path
) -> None:
    said = _run(build / "primesvt-deploy", "models", cwd=tmp_path)
    assert "none: the reference models are not installed: in a checkout of" in said
    _install(build, models_wheel)
    script = (
        "import primesvt_deploy as svit\n"
        "model = svit.load()\n"
        "data = svit.open_data(model)\n"
        "print(model.name, len(data.search), len(data.held_out), data.train.inputs(0, 1).shape)\n"
    )
    found = _run(build / "python", "-c", script, cwd=tmp_path)
    assert found == f"{DEFAULT_MODEL} 5000 5000 (1, 3, 32, 32)\n"


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


def _built(project: Path, directory: Path) -> Path:
    """The wheel of a project, in a directory."""
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=project)
    (path,) = directory.glob("*.whl")
    return path


def _held(wheel: Path) -> set[str]:
    """Names of the files that a wheel installs, without those that describe it."""
    with zipfile.ZipFile(wheel) as archive:
        return {n for n in archive.namelist() if ".dist-info/" not in n}


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
    _install(directory / "bin", wheel)
    return directory / "bin"


def _install(binaries: Path, wheel: Path) -> None:
    """Install a wheel in the environment with these `bin`, where all that it demands is."""
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python")
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=binaries)
    _run(*pip, "check", cwd=binaries)


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
