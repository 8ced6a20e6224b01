"""Completion in shells: what is offered, and that the scripts run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from small_models import primesvt

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.completion import PROGRAM, prepare_completion
from primesvt_deploy.cli.options.completers import FAMILY_NAMES
from primesvt_deploy.devices.emulated_arm.cpus import CPUS
from primesvt_deploy.edge.bench.settings import ALL_PROFILES
from primesvt_deploy.edge.runtime.profiles import LATENCY, LOW_MEMORY
from primesvt_deploy.edge.runtime.runtimes import RUNTIMES
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.model.reference_models import model_names
from primesvt_deploy.settings import POLICY_NAMES


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with bundles, here and one level below."""
    for name in ("mine", "runs/a", "runs/b", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("mine", "runs/a", "runs/b"):
        (tmp_path / name / "manifest.json").touch()
    return tmp_path


def offered(place: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What bash is told for words of which the last one is being typed."""
    monkeypatch.setenv("COMP_WORDS", "\n".join(("primesvt-deploy", *words)))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return completed("bash", place, monkeypatch)


def completed(shell: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a shell is told, as its script asks through environment variables."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("_PRIMESVT_DEPLOY_COMPLETE", f"{shell}_complete")
    prepare_completion()
    asked = get_completion_class(shell)
    assert asked is not None
    return asked(cli, {}, PROGRAM, "_PRIMESVT_DEPLOY_COMPLETE").complete().splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["doc"], ["doctor"]),
        (["build", "--budget"], ["--budget-mb", "--budget-on"]),
        (["build", "--model", "spik"], list(model_names())),
        (["build", "--model=spik"], list(model_names())),
        (["build", "--model", "=", "spik"], list(model_names())),
        (["build", "--seed", "=", "3", "--policy", "gre"], ["greedy"]),
        (["build", "--family", "sdt-v3"], ["sdt-v3", "sdt-v3-large"]),
        (["frontier", "--policy", ""], list(POLICY_NAMES)),
        (["build", "--precision", "int"], ["int8", "int4"]),
        (["build", "--runtime", ""], [*RUNTIMES, "both"]),
        (["bench", "--runtime", ""], [*RUNTIMES, "both"]),
        (["run", "--runtime", ""], list(RUNTIMES)),
        (["verify", "--profile", ""], [LATENCY, LOW_MEMORY]),
        (["bench", "--profile", ""], [LATENCY, LOW_MEMORY, ALL_PROFILES]),
        (["verify", "--arm", ""], list(CPUS)),
        (["verify", "--arm", "cortex-a72,"], ["cortex-a72,cortex-a76"]),
        (["inspect", ""], ["mine", "runs/a", "runs/b"]),
        (["run", "runs/"], ["runs/a", "runs/b"]),
        (["bench", "mine", "runs/b"], ["runs/b"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_names_and_values_are_offered(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]
) -> None:
    assert offered(place, monkeypatch, *words) == [f"plain,{value}" for value in expected]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["build", "--data", "x"], "file"),
        (["build", "--config", ""], "file"),
        (["build", "--model", "x"], "dir"),
        (["inspect", "nothing-like-it"], "file"),
        (["inspect", "absent/"], "file"),
    ],
)
def test_paths_are_left_to_the_shell(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str
) -> None:
    assert [line.partition(",")[0] for line in offered(place, monkeypatch, *words)] == [kind]


def test_family_names_are_those_of_the_families() -> None:
    assert tuple(family.name for family in FAMILIES) == FAMILY_NAMES


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_value_after_an_equals_sign_keeps_its_option(
    place: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """These shells replace the whole word."""
    word = "--precision=int"
    monkeypatch.setenv("COMP_WORDS", f"primesvt-deploy build {word}")
    monkeypatch.setenv("COMP_CWORD", "2" if shell == "zsh" else word)
    said = "\n".join(completed(shell, place, monkeypatch))
    assert "--precision=int8" in said and "--precision=int4" in said


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    (tmp_path / "primesvt-deploy").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "\n'
        'import sys; sys.argv[0] = \\"primesvt-deploy\\"\n'
        'from primesvt_deploy.cli import main; main()" "$@"\n'
    )
    (tmp_path / "primesvt-deploy").chmod(0o755)
    program = (
        'eval "$(primesvt-deploy completion)"\n'
        "COMP_WORDS=(primesvt-deploy build --family max); COMP_CWORD=3\n"
        "_primesvt_deploy_completion primesvt-deploy\n"
        'echo "${COMPREPLY[*]}"; complete -p primesvt-deploy'
    )
    environment = {**os.environ, "SHELL": "/bin/bash", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert ended.stdout.splitlines()[0] == "maxformer", ended.stderr
    assert "-F _primesvt_deploy_completion primesvt-deploy" in ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_says_how_to_install_it(tmp_path: Path, shell: str) -> None:
    script = primesvt("completion", shell, cwd=tmp_path).stdout
    head = "\n".join(script.splitlines()[:5])
    assert "# To install:" in head and f"primesvt-deploy completion {shell}" in head
    if shell == "zsh":
        assert script.startswith("#compdef primesvt-deploy\n")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_scripts(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(primesvt("completion", shell, cwd=tmp_path).stdout)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_an_unknown_shell_is_told_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/bin/dash")
    found = primesvt("completion", cwd=tmp_path)
    assert found.stderr == (
        "error: $SHELL is dash: expected a shell after completion: bash, zsh, fish\n"
    )
