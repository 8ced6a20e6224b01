"""Mistakes of usage: one line, exit code 2, with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import primesvt


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("build --anytime abc", "--anytime: found 'abc', expected a number"),
        ("build --batch 2.5", "--batch: found '2.5', expected a whole number"),
        ("run b i --top 0", "--top: found '0', expected a whole number, 1 or more"),
        (
            "build --precision int3",
            "--precision: found 'int3', expected one of fp32, int8, int4, auto: did you mean "
            "int8 or int4?",
        ),
        ("build --precisoin int8", "build has no option --precisoin: did you mean --precision?"),
        ("analyze --output x", "no option --output: see `primesvt-deploy analyze --help`"),
        ("compare no.json no.json", "there is no result no.json: `bench --output` writes one"),
        ("build --saving 9 --finetune-slack 3", "--finetune-slack needs --finetune EPOCHS: pass"),
        ("build --budget-mb nan --show-config", "--budget-mb: found 'nan', expected a number"),
        ("build --saving=-inf", "--saving: found '-inf', expected a number"),
        ("build --wxyz", "build has no option --wxyz: see `primesvt-deploy build --help`"),
        ("biuld", "primesvt-deploy has no command 'biuld': did you mean build?"),
        ("xyz", "primesvt-deploy has no command 'xyz': expected one of analyze, bench,"),
        (
            "--saving 70",
            "primesvt-deploy has no option --saving: put it after the command, as in "
            "`primesvt-deploy build --saving`",
        ),
        ("build --saving", "--saving: found nothing after it, expected a number"),
        ("build --force=1", "--force: found a value after it, expected none: it is on or off"),
        ("run", "BUNDLE and IMAGE... are missing: primesvt-deploy run BUNDLE IMAGE..."),
        ("run b", "IMAGE... is missing: primesvt-deploy run BUNDLE IMAGE..."),
        ("inspect", "BUNDLE is missing: primesvt-deploy inspect BUNDLE"),
        ("inspect a b c", "found 'b', 'c' as well, expected `primesvt-deploy inspect BUNDLE`; quo"),
        ("build x", "found 'x' as well, expected `primesvt-deploy build` and options"),
        ("build --budget-mb 4 --budget-mb 5", "--budget-mb: found twice, expected once"),
        ("build --budget-mb=4 --budget-mb 5", "--budget-mb: found twice, expected once"),
        ("bench b -p 1 --port 2 -p 3", "-p, --port: found 3 times, expected once"),
        ("build --frames --images", "--frames, --images: found twice, expected once"),
        ("completion tcsh", "SHELL: found 'tcsh', expected one of bash, zsh, fish"),
    ],
)
def test_a_mistake_of_usage_is_one_line(tmp_path: Path, words: str, said: str) -> None:
    found = primesvt(*words.split(), cwd=tmp_path)
    assert found.returncode == 2
    assert found.stdout == ""
    assert said in found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_what_may_be_repeated_is_not_refused(tmp_path: Path) -> None:
    for words in ("bench b --profile a --profile b --json --json", "build --ignore a --ignore b"):
        assert primesvt(*words.split(), "--show-config", cwd=tmp_path).returncode == 0


def test_help_is_shown_whatever_else_is_typed(tmp_path: Path) -> None:
    found = primesvt("build", "--seed", "1", "--seed", "2", "--help", cwd=tmp_path)
    assert found.returncode == 0
    assert "--budget-mb" in found.stdout


def test_a_name_that_breaks_lines_does_not_break_the_message(tmp_path: Path) -> None:
    found = primesvt("a\nb\x1b[31m", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1 and "\x1b" not in found.stderr
