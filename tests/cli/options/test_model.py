"""Options that name a model: what may be a file of labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from primesvt_deploy.cli import main


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fifo", "it is a pipe (FIFO)"),
        ("device", "it is a character device"),
        ("directory", "it is a directory"),
        ("large", "it has more than 16777216 bytes"),
        ("bytes", "can't decode byte 0xff in position 0"),
        ("nothing", "No such file or directory"),
    ],
)
def test_what_is_no_text_is_one_line(
    kind: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "labels.txt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind != "nothing":
        path.write_bytes(b"\xff\xfe" if kind == "bytes" else b"a\n" * 2**23 + b"a")
    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", "analyze", "--labels", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --labels: cannot read {path} as text: ") and said in err
    assert err.count("\n") == 1
