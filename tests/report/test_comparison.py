"""Bundles side by side."""

from __future__ import annotations

import json
from typing import Any

import pytest
from html_page import Page

from primesvt_deploy.report.comparison import render_comparison
from primesvt_deploy.report.content import ReportContent
from primesvt_deploy.report.read import BundleReport

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def bundles(
    manifest: dict[str, Any], plan: dict[str, Any], content: ReportContent, without_pictures: None
) -> list[BundleReport]:
    other = json.loads(json.dumps(manifest))
    other["size"]["shipped"]["file_bytes"] = 2_345_678
    other["accuracy"]["drop"] |= {"points": 2.9, "interval95_points": [1.9, 3.9]}
    other["precision"]["name"] = "int8"
    less = {**plan, "widths": {**plan["widths"], "blocks.0.mlp": 100}}
    return [
        BundleReport("one", manifest, plan, content),
        BundleReport(f"two {HOSTILE}", other, less, None),
    ]


def test_every_bundle_has_its_figures(bundles: list[BundleReport]) -> None:
    page = Page(render_comparison(bundles))
    assert "2 bundles side by side" in page.text
    for words in (
        "1. one spikformer-2-192-cifar10 4.19 MB",
        "78.00 MB 88.73 µJ fp32 greedy ✓ met at most 4.20 MB, 3.0 points",
        f"2. two {HOSTILE} spikformer-2-192-cifar10 2.35 MB",
        "-2.90 [-3.90, -1.90]",
        "Change of top-1, points",
        "int8 greedy ≈ not shown",
        "blocks.0.mlp 384 of 768 100 of 768",
    ):
        assert words in page.text, words
    assert len(page.scripts) == 3
    assert "different" not in page.text


def test_widths_and_sizes_are_drawn(bundles: list[BundleReport]) -> None:
    specs = json.loads(Page(render_comparison(bundles)).scripts[0])["specs"]
    (points,) = specs["several"]["datasets"].values()
    assert [(p["number"], p["mb"], p["top1"]) for p in points] == [
        (1, 4.187654, 73.32),
        (2, 2.345678, 73.32),
    ]
    (rows,) = specs["kept"]["datasets"].values()
    mlp = [(r["bundle"], r["share"]) for r in rows if r["layer"] == "blocks.0.mlp"]
    assert mlp == [(1, 0.5), (2, pytest.approx(100 / 768))]


def test_what_does_not_compare_is_told(bundles: list[BundleReport]) -> None:
    manifest: Any = bundles[1].manifest
    manifest["model"]["family"] = "qkformer"
    manifest["accuracy"]["data_digest"] = "88" * 32
    manifest["latency"]["cpu"] = "Cortex-A72"
    text = Page(render_comparison(bundles)).text
    for words in ("different models (", "different data (cifar10 77777777", "Cortex-A72"):
        assert words in text


def test_no_accuracy_asked_for_is_told(bundles: list[BundleReport]) -> None:
    constraints: Any = bundles[0].manifest["constraints"]
    constraints["max_drop_points"] = None
    text = Page(render_comparison(bundles)).text
    assert "at most 4.20 MB, no accuracy was asked for" in text


def test_the_same_bundles_give_the_same_page(bundles: list[BundleReport]) -> None:
    assert render_comparison(bundles) == render_comparison(bundles)
