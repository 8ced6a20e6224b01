"""`report` as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_up_build import example_content, example_manifest, example_plan
from sealed_bundles import seal
from small_models import primesvt

from primesvt_deploy.report.content import encode_content


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two bundles, which hold what a report reads."""
    directory = tmp_path_factory.mktemp("report")
    for name in ("bundle", "other"):
        (directory / name).mkdir()
        (directory / name / "plan.json").write_text(json.dumps(example_plan()))
        manifest = example_manifest()
        del manifest["files"]
        if name == "bundle":
            content = encode_content(example_content())
            (directory / name / "report.json").write_bytes(content)
        seal(directory / name, **manifest, output={})
    os.mkfifo(directory / "pipe")
    return directory


def test_one_bundle_is_drawn(place: Path) -> None:
    ran = primesvt("report", "bundle", cwd=place)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "report: report.html (1.4 MB); open it in a browser\n"
    page = (place / "report.html").read_text()
    assert "primesvt-deploy bench bundle --host" in page
    again = primesvt("report", "bundle", cwd=place)
    assert again.returncode == 0 and (place / "report.html").read_text() == page


def test_several_are_set_side_by_side(place: Path) -> None:
    ran = primesvt("report", "bundle", "other", "--output", "both.html", cwd=place)
    assert ran.returncode == 0, ran.stderr
    assert "2 bundles side by side" in (place / "both.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bundle", "./bundle"), "a bundle is named twice"),
        (("nothing",), "nothing is no bundle: it has no manifest.json"),
        (("bundle", "--output", "bundle/new.html"), "within the bundle"),
        (("bundle", "--output", "other/report.html"), "within the bundle"),
        (("bundle", "--output", "bundle"), "within the bundle"),
        (("bundle", "--output", "pipe"), "no regular file"),
        (("bundle", "--output", "."), "a directory: expected a file"),
        (("bundle", "--output", "gone/report.html"), "there is no directory"),
    ],
)
def test_a_mistake_is_one_line(place: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = primesvt("report", *arguments, cwd=place)
    assert ran.returncode == 2
    assert words in ran.stderr and ran.stderr.count("\n") == 1
    assert not list(place.glob("*/*.html"))
