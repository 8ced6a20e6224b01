"""What a build says at its end, of a made-up one."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from made_up_build import example_manifest

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.tables.build import print_build, print_bundle

WARNING = "WARNING: the dense model gets 3.1% of 96 held-out images right, guessing 10%"


@pytest.fixture
def manifest(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("COLUMNS", "200")
    return example_manifest()


def test_a_model_that_guesses_is_told_before_the_verdict(
    manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest["notes"] = [WARNING, "read as it was"]
    for show in (lambda: print_build(manifest, Path("out")), lambda: print_bundle(manifest)):
        show()
        text = capsys.readouterr().out
        assert text.count(WARNING) == 1 and f"note: {WARNING}" not in text
        assert text.index(f"\n{WARNING}\n") < text.index("Constraints met")
        assert "\nnote: read as it was\n" in text


def test_a_gain_is_told_as_one(
    manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest["accuracy"]["drop"] |= {"points": -0.3, "interval95_points": [-1.0, 0.4]}
    manifest["latency"]["ratio_median"] = 1.3
    print_build(manifest, Path("out"))
    text = capsys.readouterr().out
    assert "+0.30 [-0.40, +1.00] points" in text
    assert "0.30 points gained on held-out images (95% interval of the loss [-1.00, 0.40])" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"flipped_spikes": 13_339, "spikes_compared": 303_562_752},
            "0.0044% of the spikes flipped (rounding near the threshold; logits differ by at most "
            "3e-06 where none flips).",
        ),
        ({}, "less than 0.0001% of the spikes flipped (rounding"),
        ({"flipped_spikes": 0}, "top-1 equal on 255, no spike flipped."),
        ({"images_with_flips": 256}, "of the spikes flipped (rounding near the threshold)."),
    ],
)
def test_flips_are_a_share_with_a_reason(
    manifest: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, int],
    told: str,
) -> None:
    manifest["verification"] |= changes
    print_build(manifest, Path("out"))
    text = capsys.readouterr().out
    assert told in text and "verified on 256 images: top-1 equal on 255, " in text
    assert "\nlatency was measured on Cortex-A76.\n" in text


@pytest.mark.parametrize("as_json", [False, True])
def test_the_next_command_ends_what_people_read_alone(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, as_json: bool
) -> None:
    result = SimpleNamespace(path=tmp_path / "b", manifest=manifest, met=True)
    command = importlib.import_module("primesvt_deploy.cli.build")
    monkeypatch.setattr(command, "_built", lambda *_, **__: (result, "Next, to prune it: this"))
    arguments = ["build", "--budget-mb", "20", "--output", str(result.path)]
    found = CliRunner().invoke(cli, [*arguments, "--json"] if as_json else arguments)
    assert found.exit_code == 0, found.output
    if as_json:
        assert json.loads(found.stdout)["constraints"] == manifest["constraints"]
    else:
        assert found.stdout.endswith("\nNext, to prune it: this\n")
