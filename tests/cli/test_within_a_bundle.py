"""Nothing is ever written into a bundle: a file that it does not list makes it unusable."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from sealed_bundles import seal
from small_models import primesvt

from primesvt_deploy.bundle.workspace import Workspace
from primesvt_deploy.edge.bench.results import check_target, keep_results
from primesvt_deploy.edge.whole_file import bundle_around
from primesvt_deploy.errors import OutputError
from primesvt_deploy.pipeline.frontier_files import FrontierWriter

COMMANDS = {
    "bench": ("bench", "bundle", "--output", "{}/new.json"),
    "compare": ("compare", "a.json", "b.json", "--plot", "{}/new.png"),
    "frontier": ("frontier", "--output", "{}/new"),
    "verify": ("verify", "bundle", "--quick", "--arm-sandbox", "{}"),
    "report": ("report", "bundle", "--output", "{}/new.html"),
    "build": ("build", "--budget-mb", "1", "--output", "{}/new"),
    "build over": ("build", "--budget-mb", "1", "--force", "--output", "{}/runtime"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle/runtime").mkdir(parents=True)
    (tmp_path / "bundle/runtime/run.py").touch()
    (tmp_path / "link").symlink_to("bundle/runtime")
    return seal(tmp_path / "bundle")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["bundle", "bundle/runtime", "link"])
def test_commands_refuse_it_and_write_nothing(bundle: Path, command: str, place: str) -> None:
    before = sorted(bundle.rglob("*"))
    arguments = [argument.format(place) for argument in COMMANDS[command]]
    ran = primesvt(*arguments, cwd=bundle.parent)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    if command != "build over" or place == "bundle":
        assert f"within the bundle {bundle}, whose files are listed" in ran.stderr
    assert sorted(bundle.rglob("*")) == before


def test_the_api_refuses_it(bundle: Path) -> None:
    with pytest.raises(OutputError, match="within the bundle"):
        Workspace(bundle / "new", force=True)
    with pytest.raises(OutputError, match="within the bundle"):
        FrontierWriter(bundle, key="k", policy="p")
    with pytest.raises(OutputError, match="within the bundle"):
        check_target(bundle / "new.json")


def test_other_places_are_no_bundles(bundle: Path) -> None:
    (bundle.parent / "manifest.json").write_text("{}")
    assert bundle_around(bundle / "deep/er") == bundle
    assert bundle_around(bundle) is None


def test_a_result_that_has_no_place_is_kept_elsewhere(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(tempfile, "tempdir", str(bundle.parent))
    before = sorted(bundle.rglob("*"))
    with pytest.raises(OutputError, match=f"the result is at {bundle.parent}/primesvt-bench-"):
        keep_results({}, bundle.parent / "nowhere/r.json")
    assert sorted(bundle.rglob("*")) == before
