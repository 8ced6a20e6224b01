"""A file that is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from primesvt_deploy.edge.whole_file import whole_file, write_whole


def test_text_and_bytes_replace_what_stood_there(tmp_path: Path) -> None:
    for content, written in (("\u03c4\n", "\u03c4\n".encode()), (b"\xff", b"\xff")):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == written
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_what_stood_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_whole(tmp_path / "file", "before")
    with pytest.raises(error), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "file").read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_nobody_sees_the_file_before_it_is_whole(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "file").exists()
        assert temporary.parent == tmp_path
    assert (tmp_path / "file").read_text() == "half"


def test_a_place_that_is_none_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for wrong in ("folder", "nowhere/file"):
        with pytest.raises(OSError):
            write_whole(tmp_path / wrong, "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
