"""Commands of the report: what it was built with, and what its outcome suggests."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from primesvt_deploy.cli import cli
from primesvt_deploy.report.next_steps import build_command, next_steps


def commands(manifest: dict[str, Any]) -> list[str]:
    return [step.command for step in next_steps(manifest, "out/tiny bundle")]


def test_the_build_is_told_without_its_defaults(manifest: dict[str, Any]) -> None:
    assert build_command(manifest, output="b") == (
        "primesvt-deploy build --model spikformer-2-192-cifar10 --budget-mb 4.2 --precision auto "
        "--policy greedy --seed 11 --output b"
    )


def test_every_setting_is_told(manifest: dict[str, Any]) -> None:
    del manifest["model"]["data"]
    manifest["checkpoint"] = {"file": "my weights.pth", "bytes": 1, "sha256": "0" * 64}
    manifest["accuracy"]["data"] = "pictures"
    manifest["constraints"] |= {"budget_mb": None, "saving_percent": 30, "budget_on": "params"}
    manifest["precision"] |= {"asked": "int4", "standard_ops": True}
    manifest["runtimes"] = ["onnx", "native"]
    manifest["input"]["shape"] = [2, 3, 32, 32]
    manifest["finetune"] = {"epochs": 2}
    manifest["policy"] |= {
        "policy": "uniform",
        "max_drop": None,
        "rates": [0.5],
        "recover": [],
        "channel_multiple": 8,
        "search_images": 600,
        "robustness_images": 256,
        "ignore": ["head", "stem.*"],
    }
    assert shlex.split(build_command(manifest))[2:] == [
        *("--checkpoint", "my weights.pth", "--data", "pictures", "--saving", "30"),
        *("--budget-on", "params", "--precision", "int4", "--runtime", "both", "--standard-ops"),
        *("--batch", "2", "--policy", "uniform", "--max-drop", "off", "--recover", "none"),
        *("--rates", "0.5", "--channel-multiple", "8", "--robustness-images", "256"),
        *("--seed", "11", "--search-images", "600", "--ignore", "head", "--ignore", "stem.*"),
        *("--finetune", "2"),
    ]


def test_a_budget_that_is_not_met_is_searched_harder_or_raised(manifest: dict[str, Any]) -> None:
    manifest["constraints"] |= {"met": False, "budget_met": False, "used_bytes": 4_620_001}
    manifest["policy"]["policy"] = "prioritized"
    found = commands(manifest)
    assert "--policy greedy" in found[0]
    assert "--finetune 1" in found[1]
    assert "--budget-mb 4.621" in found[2]


def test_slack_is_used(manifest: dict[str, Any]) -> None:
    manifest["constraints"]["used_bytes"] = 3_000_000
    assert "--budget-mb 2.7" in commands(manifest)[0]


def test_a_loss_that_is_not_shown_to_be_kept_asks_for_less(manifest: dict[str, Any]) -> None:
    manifest["accuracy"]["drop"]["interval95_points"] = [-1.0, 4.9]
    assert "--max-drop 1.5" in commands(manifest)[0]


def test_fewer_bits_are_offered_where_they_were_not_tried(manifest: dict[str, Any]) -> None:
    assert not [c for c in commands(manifest) if "--precision int8 --output" in c]
    manifest["precision"]["candidates"] = manifest["precision"]["candidates"][:1]
    assert [c for c in commands(manifest) if "--precision int8 --output" in c]


def test_a_path_is_quoted(manifest: dict[str, Any]) -> None:
    assert "primesvt-deploy bench 'out/tiny bundle' --host USER@DEVICE" in " ".join(
        commands(manifest)
    )


@pytest.mark.parametrize("met", [True, False])
def test_every_option_exists(manifest: dict[str, Any], met: bool) -> None:
    """Commands and options are those of the command line."""
    manifest["constraints"] |= {"met": met, "used_bytes": 3_000_000}
    manifest["accuracy"]["drop"]["interval95_points"] = [-1.0, 4.9]
    manifest["precision"]["candidates"] = []
    for command in commands(manifest):
        if command.startswith("python "):
            continue
        program, name, *words = shlex.split(command)
        assert program == "primesvt-deploy"
        options = {flag for p in cli.commands[name].params for flag in p.opts}
        assert {word for word in words if word.startswith("--")} <= options, command


def test_the_command_that_was_typed_is_told_and_changed(manifest: dict[str, Any]) -> None:
    manifest["command"] = (
        "primesvt-deploy build --checkpoint 'my runs/a.pth' --force --budget-mb 3 --frontier f "
        "--mean 0.5,0.5,0.5 --output here"
    )
    assert build_command(manifest) == manifest["command"]
    assert build_command(manifest, output="there", policy="greedy") == (
        "primesvt-deploy build --checkpoint 'my runs/a.pth' --force --budget-mb 3 "
        "--mean 0.5,0.5,0.5 --output there --policy greedy"
    )
    manifest["command"] = "primesvt-deploy build 'altered"
    assert build_command(manifest) == "primesvt-deploy build"
