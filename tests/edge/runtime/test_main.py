"""What `run` prints: one line an image, whatever the names of files and labels."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from primesvt_deploy.edge.runtime import main as command
from primesvt_deploy.edge.runtime.predict import Prediction

NAMES = ["a.png", "new\nline.png", "\x1b[31m.png", "caf\udce9.png", "日本.png"]


class _Classifier:
    """Answers without a bundle."""

    meets_constraints = True

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass

    def classify(self, images: list[str], *, top: int) -> list[Prediction]:
        return [Prediction(image, (("a\nlabel", 1.0),), (1.0,)) for image in images][: top + 99]


@pytest.fixture(autouse=True)
def without_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Classifier", _Classifier)


def test_one_printable_line_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("bundle", NAMES) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        r"a.png: a\nlabel 100.0%",
        r"new\nline.png: a\nlabel 100.0%",
        r"\x1b[31m.png: a\nlabel 100.0%",
        r"caf\udce9.png: a\nlabel 100.0%",
        r"日本.png: a\nlabel 100.0%",
    ]


def test_json_has_the_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("bundle", ["--json", *NAMES]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["image"] for line in lines] == NAMES


def test_names_that_standard_output_cannot_encode() -> None:
    code = (
        "from primesvt_deploy.edge.runtime.errors import print_whatever_names\n"
        "print_whatever_names()\n"
        "print('caf\\udce9 日本')\n"
    )
    line = [sys.executable, "-X", "utf8=0", "-c", code]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run(line, capture_output=True, env=environment, check=True)
    assert found.stdout.decode("ascii") == "caf\\udce9 \\u65e5\\u672c\n"
