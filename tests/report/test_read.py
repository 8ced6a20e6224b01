"""A bundle is checked before anything of it is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sealed_bundles import seal

from primesvt_deploy.errors import BundleError
from primesvt_deploy.report.content import ReportContent, encode_content
from primesvt_deploy.report.read import read_bundle


@pytest.fixture
def bundle(
    tmp_path: Path, manifest: dict[str, Any], plan: dict[str, Any], content: ReportContent
) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "report.json").write_bytes(encode_content(content))
    del manifest["files"]
    return seal(tmp_path, **manifest, output={})


def test_a_bundle_is_read_as_it_was_written(
    bundle: Path, plan: dict[str, Any], content: ReportContent
) -> None:
    found = read_bundle(bundle)
    assert (found.path, found.plan, found.content) == (str(bundle), plan, content)
    assert found.manifest["model"]["name"] == "spikformer-2-192-cifar10"


def test_a_bundle_of_an_earlier_version_has_no_content(bundle: Path) -> None:
    (bundle / "report.json").unlink()
    assert read_bundle(seal(bundle)).content is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("policy", "steps", 0, "kept"), "many", "steps[0].kept is 'many', expected a whole"),
        (("robustness", 0, "curve", 0, "rate"), 7, "rate is 7, expected a number from 0 to 1"),
        (("widths",), [3], "widths is a list of 1, expected a table"),
        (("groups",), [{"layer": "a"}], "groups[0].width is missing"),
    ],
)
def test_a_plan_that_no_build_writes_is_refused(
    bundle: Path, plan: dict[str, Any], path: tuple[Any, ...], value: Any, words: str
) -> None:
    target: Any = plan
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    (bundle / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(BundleError, match=r"plan\.json is not what a build writes") as raised:
        read_bundle(seal(bundle))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seconds", {"export": "long"}, "seconds['export'] is 'long'"),
        ("versions", [], "versions is a list of 0, expected a table"),
        ("policy", {"name": "greedy", "rates": 3}, "policy.rates is 3"),
        ("constraints", {"met": True, "stopped_by": "", "max_drop_points": None, "used_bytes": -1},
         "constraints.used_bytes is -1"),
    ],
)  # fmt: skip
def test_a_manifest_that_no_build_writes_is_refused(
    bundle: Path, key: str, value: Any, words: str
) -> None:
    with pytest.raises(
        BundleError, match=r"(its manifest|manifest\.json) is not what a build writes"
    ) as raised:
        read_bundle(seal(bundle, **{key: value}))
    assert words in str(raised.value)


def test_an_altered_bundle_is_refused(bundle: Path) -> None:
    (bundle / "report.json").write_text("{}")
    with pytest.raises(BundleError, match=r"report.json has 2 bytes"):
        read_bundle(bundle)
