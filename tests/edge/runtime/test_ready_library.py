"""A library of the native runtime that was compiled elsewhere is checked and used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.native_library import (
    READY_LIBRARY,
    compile_library,
    load_library,
)

HEADER = """/* svit_not_there(1) is only talked of. */
typedef void svit_callback(int number);
int svit_answer(void);
const char *svit_name(const int *model);
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """An engine of two functions."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler here")
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "svit.h").write_text(HEADER)
    (folder / "svit.c").write_text(
        '#include "svit.h"\nint svit_answer(void) { return 42; }\n'
        'const char *svit_name(const int *model) { return model ? "a" : "b"; }\n'
    )
    return folder


def test_it_is_loaded_in_place_of_one_that_would_be_compiled(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compile_library(["cc"], tmp_path, sources)
    (sources / "svit.c").write_text("int broken")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(READY_LIBRARY, library.name)  # relative, and not searched for
    assert load_library(sources).svit_answer() == 42


def test_one_that_does_not_fit_is_one_line(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compile_library(["cc"], tmp_path, sources)
    header = sources / "svit.h"
    header.write_text(f"{HEADER}int svit_newer(void);\nvoid svit_newest(int a);\n")
    monkeypatch.setenv(READY_LIBRARY, str(library))
    with pytest.raises(BundleError) as caught:
        load_library(sources)
    assert f"{library} has no svit_newer, svit_newest: compile it from" in str(caught.value)
    other = tmp_path / "other.so"
    other.write_bytes(library.read_bytes()[:100])
    monkeypatch.setenv(READY_LIBRARY, str(other))
    with pytest.raises(BundleError, match=r"other\.so cannot be loaded \(.*: compile it from") as e:
        load_library(sources)
    assert str(e.value).endswith("or unset PRIMESVT_NATIVE_LIBRARY") and str(e.value).isprintable()


def test_a_compiler_that_fails_is_one_line(sources: Path, tmp_path: Path) -> None:
    (sources / "svit.c").write_text("int broken")
    with pytest.raises(BundleError, match=r"the C compiler cc failed \(.*error: "):
        compile_library(["cc"], tmp_path, sources)
