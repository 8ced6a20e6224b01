"""The memory probe where there is no more than numpy and onnxruntime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sealed_bundles import seal

import primesvt_deploy.edge.runtime
from primesvt_deploy.edge.runtime import memory
from primesvt_deploy.edge.runtime.memory import FIGURES, STAGES, main, resident
from primesvt_deploy.edge.runtime.profiles import make_profile, session_json


@pytest.fixture
def bundle(tiny_files: Path) -> Path:
    """What the probe needs of a bundle."""
    content = session_json(low_memory_file="model.ort")
    (tiny_files / "session.json").write_text(json.dumps(content))
    source = Path(primesvt_deploy.edge.runtime.__file__).parent
    shutil.copytree(source, tiny_files / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    return seal(tiny_files)


def probe(bundle: Path, *arguments: str) -> dict[str, dict[str, int | None]]:
    """What the copy of the probe in a bundle says, isolated from this repository."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from runtime.memory import main\n"
        "lacking = [m for m in ('numpy', 'onnxruntime', 'primesvt_deploy') if m in sys.modules]\n"
        "assert not lacking, lacking\n"
        "code = main(sys.argv[1:])\n"
        "assert 'primesvt_deploy' not in sys.modules and 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(bundle), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, int | None]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("profile", ["latency", "low-memory"])
def test_a_bundle_measures_itself(bundle: Path, profile: str) -> None:
    stages = probe(bundle, str(bundle), "--profile", profile, "--threads", "1")
    assert tuple(stages) == STAGES
    assert all(tuple(figures) == FIGURES for figures in stages.values())


def test_a_file_under_a_profile_as_json(bundle: Path) -> None:
    text = json.dumps(make_profile("low-memory", "model.ort").to_dict())
    stages = probe(bundle, str(bundle / "model.ort"), "--profile", text, "--batch", "3")
    assert tuple(stages) == STAGES


def test_run_as_a_module_it_needs_neither_torch_nor_click(bundle: Path) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('primesvt_deploy.edge.runtime.memory', run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "print([m for m in ('torch', 'click', 'onnx', 'rich') if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(bundle / "model.onnx"), "--profile", "defaults"]
    root = Path(primesvt_deploy.edge.runtime.__file__).parents[3]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert ended.returncode == 0, ended.stderr
    figures, imported = ended.stdout.splitlines()
    assert tuple(json.loads(figures)) == STAGES
    assert imported == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.onnx",), "there is no model file at none.onnx"),
        (("model.onnx", "--profile", "fast"), "there is no session profile 'fast'"),
        (("model.onnx", "--profile", "{"), "--profile is not complete JSON"),
        (("model.onnx", "--profile", "{}"), "session profile: found []"),
        ((".", "--profile", "defaults"), "pass latency or low-memory"),
    ],
)
def test_a_mistake_is_one_line(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(bundle)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and said in output.err
    assert output.err.count("\n") == 1


def test_a_system_without_proc_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_STATUS", str(tmp_path / "none"))
    assert resident() == dict.fromkeys(FIGURES)
