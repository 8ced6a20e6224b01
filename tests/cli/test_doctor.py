"""`primesvt-deploy doctor` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import primesvt

from primesvt_deploy.cli.health import packages
from primesvt_deploy.cli.health.probe import Probe


@pytest.fixture
def without_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported: that takes seconds."""
    monkeypatch.setattr(packages, "start_edge_imports", lambda: None)
    monkeypatch.setattr(packages, "start_torch", lambda: None)


@pytest.mark.usefixtures("without_imports")
def test_findings_are_lines_under_headings(tmp_path: Path) -> None:
    found = primesvt("doctor", cwd=tmp_path)
    # A compiler of this machine may be broken.
    assert found.returncode == int("  broken" in found.stdout)
    lines = found.stdout.splitlines()
    assert lines[0].startswith("Edge install") and lines[1].startswith("  ok       python 3.")
    for name in ("Compilers", "ARM emulation", "SSH", "Reference models", "This machine"):
        assert any(line.startswith((name, f"Connections over {name}")) for line in lines)
    for index, line in enumerate(lines):
        if line.startswith("  missing"):
            assert lines[index + 1].strip().startswith("needed for: ")
            assert lines[index + 2].strip().startswith("mend: ")
    assert "\x1b" not in found.stdout


@pytest.mark.usefixtures("without_imports")
def test_json_holds_every_finding(tmp_path: Path) -> None:
    content = json.loads(primesvt("doctor", "--json", cwd=tmp_path).stdout)
    names = {finding["name"] for finding in content["findings"]}
    states = {finding["state"] for finding in content["findings"]}
    assert content["works"] == ("broken" not in states)
    assert {"numpy", "torch", "cc", "sandbox", "agent", "models", "processor", "cache"} <= names
    for finding in content["findings"]:
        assert finding["state"] in ("ok", "missing", "broken")
        assert finding["state"] == "ok" or (finding["needed_for"] and finding["mend"])


@pytest.mark.usefixtures("without_imports")
def test_what_is_broken_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [sys.executable, "-c", "raise ImportError('libcudart.so.13')"]
    monkeypatch.setattr(packages, "start_torch", lambda: Probe(broken))
    found = primesvt("doctor", cwd=tmp_path)
    assert found.returncode == 1
    assert "  broken   import of torch: ImportError: libcudart.so.13\n" in found.stdout
    assert found.stdout.splitlines()[-1].startswith("Mend first: import of torch")
    assert json.loads(primesvt("doctor", "--json", cwd=tmp_path).stdout)["works"] is False


@pytest.mark.slow
def test_doctor_imports_nothing_heavy_itself_and_works_without_numpy(tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('numpy', 'rich', 'PIL'): sys.modules[name] = None\n"
        "sys.argv = ['primesvt-deploy', 'doctor', '--json']\n"
        "from primesvt_deploy.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode in (0, 1), ended.stderr
    found = {finding["name"]: finding for finding in json.loads(ended.stdout)["findings"]}
    assert found["import of torch"]["state"] == "ok"
    assert found["import of numpy, onnxruntime and Pillow"]["state"] == "ok"
