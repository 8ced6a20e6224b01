"""Packages that `doctor` looks at: missing, too old, or not importable."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from primesvt_deploy.cli.health import packages
from primesvt_deploy.cli.health.finding import BROKEN, MISSING, OK, Finding
from primesvt_deploy.cli.health.probe import Probe

REQUIRES = [
    "numpy>=1.26",
    "click>=8.1",
    "asyncssh>=2.21; extra == 'ssh'",
    'asyncssh>=2.21 ; extra == "build"',
    "torch>=2.14; extra == 'build'",
    "model-signing>=1.1.1; extra == 'sign'",
    "ruff>=0.13; extra == 'dev'",
]
VERSIONS = {"numpy": "2.4.6", "click": "8.0.1", "torch": "2.14.1+cu130"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that are taken for the installed ones."""
    versions = dict(VERSIONS)
    monkeypatch.setattr(packages, "installed_version", versions.get)
    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRES)
    return versions


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_each_package_is_judged_by_what_the_project_demands(installed: dict[str, str]) -> None:
    found = by_name(list(packages.check_packages()))
    assert set(found) == {"python", "numpy", "click", "torch", "asyncssh", "model-signing"}
    assert (found["numpy"].state, found["numpy"].found) == (OK, "2.4.6")
    assert found["click"].state == BROKEN and found["click"].is_failure
    assert found["click"].found == "8.0.1, expected 8.1 or newer"
    assert found["click"].mend == "pip install -U 'click>=8.1'"
    assert found["torch"].state == OK
    assert found["asyncssh"].state == MISSING and not found["asyncssh"].is_failure
    assert found["asyncssh"].mend == "pip install 'primesvt-deploy[ssh]'"
    assert "bench --host" in found["asyncssh"].area
    assert found["model-signing"].mend == "pip install 'primesvt-deploy[sign]'"


def test_the_edge_install_cannot_do_without_a_package(installed: dict[str, str]) -> None:
    del installed["numpy"]
    numpy = by_name(list(packages.check_packages()))["numpy"]
    assert numpy.state == MISSING and numpy.is_failure
    assert numpy.mend == "pip install 'numpy>=1.26'"


def test_what_is_not_installed_is_not_imported(installed: dict[str, str]) -> None:
    del installed["torch"]
    assert packages.start_torch() is None
    assert packages.start_edge_imports() is None, "there is no onnxruntime"
    assert list(packages.check_torch(None)) == []


def test_requirements_of_the_real_project_are_read() -> None:
    found = packages.requirements()
    assert found is not None
    assert {"numpy", "onnxruntime", "pillow", "click", "rich"} <= set(found[""])
    assert {"torch", "onnx"} <= set(found["build"])
    assert "asyncssh" in found["ssh"] and "asyncssh" not in found["build"]


def python(program: str, seconds: float = 20.0) -> Probe:
    return Probe([sys.executable, "-c", program], seconds=seconds)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise ImportError('libfoo.so: cannot open')", "ImportError: libfoo.so: cannot open"),
        ("raise ImportError('libfoo.so\\nis it installed?')", "ImportError: libfoo.so"),
        ("import sys; sys.exit(3)", "it ended with 3"),
        ("import os; os.kill(os.getpid(), 4)", "it was ended by SIGILL"),
    ],
)
def test_a_torch_that_does_not_import_is_broken(program: str, said: str) -> None:
    (finding,) = packages.check_torch(python(program))
    assert (finding.name, finding.state, finding.found) == ("import of torch", BROKEN, said)
    assert finding.is_failure and "pip install" in finding.mend


def test_a_torch_that_hangs_does_not_hang_doctor() -> None:
    (finding,) = packages.check_torch(python("import time; time.sleep(60)", seconds=0.2))
    assert finding.found == "it takes more than 0 s" and finding.state == BROKEN


@pytest.mark.parametrize(
    ("said", "state", "found"),
    [
        ('{"built_for": "13.0", "devices": ["H200"]}', OK, "cuda:0 H200"),
        ('{"built_for": "13.0", "devices": []}', MISSING, "no device answers torch for CUDA 13.0"),
        ('{"built_for": null, "devices": []}', MISSING, "this torch is for CPUs"),
    ],
)
def test_devices_of_cuda_are_named(said: str, state: str, found: str) -> None:
    imported, cuda = packages.check_torch(python(f"print('noise'); print({said!r})"))
    assert imported.state == OK
    assert (cuda.state, cuda.found, cuda.is_failure) == (state, found, False)


def test_a_broken_edge_install_is_a_failure() -> None:
    (finding,) = packages.check_imports(python("raise ImportError('numpy is of another Python')"))
    assert finding.state == BROKEN and finding.is_failure
    assert list(packages.check_imports(None)) == []


def test_a_program_that_is_not_there_is_no_traceback() -> None:
    assert Probe(["/no/such/program"]).failure() == "it does not start: No such file or directory"
