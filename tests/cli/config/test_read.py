"""A file of settings: what goes before what, whose paths, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from small_models import primesvt


def settings(directory: Path, text: str, *arguments: str, command: str = "build") -> Any:
    """What a command's settings are, given a file and words, as TOML."""
    (directory / "file").mkdir(exist_ok=True)
    (directory / "file" / "s.toml").write_text(text)
    words = ("--config", "file/s.toml", *arguments, "--show-config")
    found = primesvt(command, *words, cwd=directory)
    assert found.returncode == 0, found.stderr
    return tomllib.loads(found.stdout).get(command)


def test_words_go_before_the_section_and_the_section_before_common_keys(tmp_path: Path) -> None:
    text = "seed = 1\nsearch-images = 5\n[build]\nseed = 2\nbudget-mb = 4\n[frontier]\nseed = 3\n"
    assert settings(tmp_path, text) == {"seed": 2, "search-images": 5, "budget-mb": 4.0}
    assert settings(tmp_path, text, "--seed", "9")["seed"] == 9
    assert settings(tmp_path, text, command="frontier")["seed"] == 3
    assert settings(tmp_path, text, command="analyze")["seed"] == 1
    assert settings(tmp_path, text, command="verify") == {}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "file" / "tiny").mkdir(parents=True)
    (tmp_path / "named").mkdir()
    text = '[build]\ndata = "d.npz"\noutput = "/o"\nlabels = "~/l"\nmodel = "tiny"\n'
    found = settings(tmp_path, text)
    assert found["data"] == str(tmp_path / "file" / "d.npz")
    assert found["output"] == "/o"
    assert found["labels"] == str(Path.home() / "l")
    assert found["model"] == str(tmp_path / "file" / "tiny")
    named = settings(tmp_path, '[build]\nmodel = "named"\nfamily = "tiny"\n')
    assert (named["model"], named["family"]) == (str(tmp_path / "named"), "tiny")


def test_lists_and_numbers_are_written_as_toml_has_them(tmp_path: Path) -> None:
    text = '[build]\nrates = [0.2, 0.5]\nrecover = ["free", "bias"]\nmax-drop = 2\nignore = "a"\n'
    found = settings(tmp_path, text)
    assert found["rates"] == "0.2,0.5"
    assert found["recover"] == "free,bias"
    assert found["max-drop"] == "2"
    assert found["ignore"] == ["a"]
    assert settings(tmp_path, "threads = 2\n", command="bench") == {"threads": "2"}
    assert settings(tmp_path, "threads = 2\n") == {"threads": 2}


def test_a_flag_that_is_off_is_as_if_it_were_not_given(tmp_path: Path) -> None:
    assert settings(tmp_path, "json = true\n[build]\njson = false\nforce = true\n") == {
        "force": True
    }
    assert settings(tmp_path, "[build]\nimages = true\n") == {"frames": False}
    # `bootstrap` without a host is refused where it is given.
    (tmp_path / "s.toml").write_text("[bench]\nbootstrap = false\n")
    found = primesvt("bench", "nothing", "--config", "s.toml", cwd=tmp_path)
    assert "--bootstrap" not in found.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[build]\nbugdet-mb = 3", "s.toml, line 2: build has no option bugdet-mb: did you mean b"),
        ("[biuld]\na = 1", "s.toml, line 1: there is no section [biuld]: did you mean build?"),
        ("\nsead = 3", "s.toml, line 2: no command has an option sead: did you mean seed"),
        ("[bench]\n[run]\ntpo = 3", "s.toml, line 3: run has no option tpo: did you mean top?"),
        ("[build]\nconfig = 'a'", "build has no option config"),
        ("[build]\nbudget_mb = 3", "build has no option budget_mb: did you mean budget-mb"),
        ("[build]\nbudget-mb = '3'", "s.toml, line 2: budget-mb: found '3', expected a number"),
        ("[build]\nbudget-mb = true", "budget-mb: found true, expected a number"),
        ("[build]\nbatch = 2.5", "batch: found 2.5, expected a whole number"),
        ("[build]\nbatch = [1]", "batch: found an array, expected a whole number"),
        ("[build]\ndata = 1", "data: found 1, expected a path in quotes"),
        ("[build]\nforce = 'yes'", "force: found 'yes', expected true or false"),
        ("[build]\nfamily = 3", "family: found 3, expected text in quotes"),
        ("[build]\nprecision = 'in8'", "precision: found 'in8', expected one of fp32, int8, int4,"),
        ("[build]\nrates = [true]", "rates: found true, expected text or numbers, or an array"),
        ("[run]\ntop = 0", "s.toml, line 2: top: found 0, expected a whole number, 1 or more"),
        ("[build]\nframes = true\nimages = true", "line 3: images contradicts frames: leave one"),
        ('[build]\ndata = "a\\nb"', "line 2: --data: found the character '\\n' in a path"),
        ("[build", "s.toml is no TOML: "),
        ("[build]\nbatch = 0x" + "f" * 5000, "batch: found a number beyond 64 bits, expected a w"),
        ("[build]\nsaving = 1" + "0" * 400, "saving: found a number beyond 64 bits, expected a n"),
        ("k" * 500_000 + " = 1", "s.toml: no command has an option kkkk"),
        ("[build]\ndata = ['" + "d" * 5000 + "']", "data: found an array, expected a path"),
        ("[build]\nsaving = '" + "d" * 5000 + "'", "saving: found 'ddd"),
        ("[build]\nseed = 1\nseed = 2", "no TOML: line 3 has the key seed again: keep the one"),
        ("seed = 1" + "0" * 5000, "is no TOML: it has a number beyond 64 bits"),
        ("build = 1", "line 1: build is a section: found 1, write [build] above its keys"),
        ("[[build]]\nseed = 1", "line 1: build is a section: found [[build]], write [build]"),
        ("\nbuild.sed = 1", "s.toml, line 2: build has no option sed: did you mean seed"),
        ("build = {sed = 1}", "s.toml, line 1: build has no option sed"),
        ("build = {force = true, sed = 1}", "s.toml, line 1: build has no option sed"),
        ('[build]\n"" = 1', "s.toml, line 2: build has no option '': "),
        ("[build]\nmodel = '''\nseed=1\n'''\nseed = 1.5", "line 5: seed: found 1.5, expected a"),
        ("x = 1979-05-27", "no command has an option x"),
        ("seed = 1979-05-27", "seed: found 1979-05-27, expected a whole number"),
    ],
)
def test_what_a_file_cannot_say_is_refused_in_one_line(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "s.toml").write_text(text)
    found = primesvt("build", "--config", "s.toml", "--saving", "10", cwd=tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = 1\n" * 2**18, b"[" * 100_000])
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    found = primesvt("build", "--config", "s.toml", cwd=tmp_path)
    assert found.returncode == 2
    assert "s.toml" in found.stderr and found.stderr.count("\n") == 1


def test_text_of_windows_is_read_and_another_encoding_is_named(tmp_path: Path) -> None:
    assert settings(tmp_path, "\ufeff[build]\r\nseed = 3\r\n") == {"seed": 3}
    (tmp_path / "s.toml").write_bytes("seed = 3".encode("utf-16"))
    found = primesvt("build", "--config", "s.toml", cwd=tmp_path)
    assert found.stderr == "error: --config: s.toml is no UTF-8 text: save it as UTF-8\n"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = primesvt("build", "--config", "none.toml", cwd=tmp_path)
    assert found.stderr == "error: --config: cannot read none.toml: No such file or directory\n"


def test_a_setting_of_a_file_counts_as_given(tmp_path: Path) -> None:
    """`build --frontier` refuses what the frontier decided, wherever it is said."""
    (tmp_path / "s.toml").write_text("[build]\npolicy = 'prioritized'\n")
    words = ("build", "--frontier", "f", "--config", "s.toml")
    found = primesvt(*words, cwd=tmp_path)
    assert "--policy cannot be given with --frontier" in found.stderr
    (tmp_path / "s.toml").write_text("[build]\nbudget-mb = -1\n")
    assert "change --budget-mb" in primesvt(*words, cwd=tmp_path).stderr
