"""The report page: plain verdict, every number, safe text, nothing from outside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from primesvt_deploy.report.html import render_report

DASH = "\N{EN DASH}"
PLAIN = str.maketrans("\N{MINUS SIGN}\N{MULTIPLICATION SIGN}", "-x")
VOID = {"meta", "br", "link", "hr", "img"}


class Page(HTMLParser):
    """Reads a page, insisting that every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open
        self.source = html
        self.text = re.sub(r"\s+", " ", "".join(self.pieces)).translate(PLAIN)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th", "dd", "small", "br"):
            self.pieces.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.pieces.append(data)


Render = Callable[..., Page]


@pytest.fixture
def html(manifest: dict[str, Any], curves: list[dict[str, Any]], policy: dict[str, Any]) -> str:
    return render_report(manifest, curves, policy)


@pytest.fixture
def render(
    manifest: dict[str, Any], curves: list[dict[str, Any]], policy: dict[str, Any]
) -> Render:
    """Renders the sample with some of its values, named by their paths, replaced."""

    def apply(**changes: Any) -> Page:
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = manifest
            for parent in parents:
                target = target[parent]
            target[last] = value
        return Page(render_report(manifest, curves, policy))

    return apply


def test_verdict_when_the_constraints_are_met(render: Render) -> None:
    text = render().text
    assert "Constraints met. Pruning stopped here: the budget is met." in text
    assert "not met" not in text


def test_verdict_when_they_are_not(render: Render) -> None:
    text = render(
        constraints__met=False,
        constraints__budget_met=False,
        constraints__stopped_by="all layers are used up.",
    ).text
    assert "Constraints not met. Pruning stopped here: all layers are used up. " in text
    assert "not met: 3.99 MB of at most 4.00 MB" in text
    assert re.search(r"Accuracy \S met", text)


def test_an_accuracy_that_was_not_demanded_has_no_limit(render: Render) -> None:
    text = render(constraints__max_drop_points=None).text
    assert "points lost on the search split; none was demanded;" in text
    assert "of at most" not in text.partition("Accuracy ")[2][:120]


NUMBERS = """
5.81 MB|3.99 MB|-31.4%|3 987 654 of 4 000 000 bytes|1 432 123|982 123|5.73 MB|3.93 MB
1 420 456|975 321|412.35 M|300.35 M|-27.2%|T = 4|75.32%|[74.1, 76.5]|3 766 of n = 5 000
74.52%|[73.3, 75.7]|3 726 of n = 5 000|0.80 points|[0.21, 1.39]|133 images|93 only
76.02%|[74.8, 77.2]|3 801 of|0.62 points|23.41 ms|p95 25.90 ms|17.81 ms|p95 19.22 ms|1.31 x
100 runs|2 threads|Cortex-A76|812 544|296 448|768|692|10%|25%|[0.20, 1.04]
90 lost, 59 gained|71.3 4.7 173|50.4 25.6 144 n 96|76.2 -0.2 692|74.9 1.1 576|4.00 MB
256 images|99.61%|disagreements: 1|0.123|3.1 x 10⁻⁶|98 765 432|images with a flipped spike 5
Flipped spikes 17|robustness 20.1 s|policy 6 min 40 s|in all 7 min 0 s|python 3.11.2|torch 2.9.0
primesvt-deploy 0.7.1|2026-03-01 12:34 UTC|stem widths 24, 48|mean 0.4914, 0.4822|cat, dog
ab12ab12ab12…|6 heads|Rates tried 10%, 25%|Seed 11|multiples of 8|Search images 5 000|most 512
"""


def test_every_number_is_there(render: Render) -> None:
    text = render().text.lower()
    missing = [n for n in re.split(r"[|\n]", NUMBERS.strip()) if n.lower() not in text]
    assert not missing


def test_sections_are_in_order_and_layers_in_the_policys(html: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        *("Before and after", "Layers", "Robustness", "Verification", "How it was made"),
    ]
    text = Page(html).text
    assert "residual 812 544 192 192 kept: no rate keeps the constraint" in text
    assert "blocks.0.attn.v 6 heads 296 448 768 692 10% 0.62" in text


def test_flips_name_only_layers_with_any(render: Render) -> None:
    text = render().text
    assert "stem.0 0 0 0 1" in text
    assert "stem.9" not in text
    text = render(verification__flips=[], verification__flipped_spikes=0).text
    assert "No spike of any layer is flipped" in text


def test_a_hostile_name_stays_text(render: Render, curves: list[dict[str, Any]]) -> None:
    name = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    curves[0]["layer"] = name
    read = render(
        model__name=name,
        latency__cpu=name,
        constraints__stopped_by=name,
        versions={name: name},
        files={name: {"sha256": name, "bytes": 1}},
    )
    assert "script" not in read.tags and "img" not in read.tags
    assert name in read.text


def test_stands_alone(html: str) -> None:
    assert not {"script", "link", "img", "iframe"} & set(Page(html).tags)
    assert not re.search(r"url\((?!#)|@import", html)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', html))
    assert html.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_holds_the_chart_as_svg(html: str) -> None:
    (svg,) = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    text = "".join(ET.fromstring(svg).itertext())
    assert "residual" in text
    assert "constraint 75.0%" in text


def test_same_inputs_give_the_same_page(render: Render, html: str) -> None:
    assert render().source == html


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        *("tool", "created", "model", "constraints", "size", "accuracy", "latency"),
        *("verification", "policy", "seconds", "versions", "neurons", "files"),
    ],
)
def test_a_section_may_be_null_or_missing(
    manifest: dict[str, Any],
    curves: list[dict[str, Any]],
    policy: dict[str, Any],
    key: str,
    gone: bool,
) -> None:
    manifest[key] = None
    if gone:
        del manifest[key]
    text = Page(render_report(manifest, curves, policy)).text
    assert "None" not in text and "Undefined" not in text


def test_latency_may_be_left_out(render: Render) -> None:
    text = render(latency=None).text
    assert "Latency was not measured." in text
    assert f"Latency, one image median {DASH} {DASH} {DASH}" in text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("constraints__budget_bytes", "no budget was set"),
        ("constraints__stopped_by", f"stopped here: {DASH}"),
        ("size__dense", f"File size {DASH} 3.99 MB"),
        ("size__saved_percent", f"3.99 MB {DASH}"),
        ("accuracy__drop", "The accuracy lost was not measured."),
        ("accuracy__search", "at most 1.00 points may be lost"),
        ("accuracy__shipped", f"3 766 of n = 5 000 {DASH} -0.80 points"),
        ("latency__shipped", f"p95 25.90 ms {DASH}"),
        ("verification__flips", "Which layers the flipped spikes are in was not recorded."),
        ("policy__rates", f"Rates tried {DASH}"),
        ("policy__search_images", "Search images all"),
        ("model__labels", f"classes {DASH}"),
        ("model__arguments", f"T = {DASH} timesteps"),
    ],
)
def test_parts_of_a_section_may_be_null(render: Render, path: str, shown: str) -> None:
    text = render(**{path: None}).text
    assert shown in text
    assert "None" not in text


def test_nothing_at_all_still_renders() -> None:
    text = Page(render_report({}, [], {})).text
    assert "Whether the constraints are met is not recorded." in text
    assert "No robustness curve was measured." in text
    assert "The shipped file was not verified." in text


def test_a_dense_model_that_fits_needs_no_curves(manifest: dict[str, Any]) -> None:
    manifest["accuracy"]["search"] = None
    text = Page(render_report(manifest, [], {"steps": []})).text
    assert "No channel was removed." in text
    assert "On the search split" not in text


def test_stages_that_stop_early_are_told(render: Render) -> None:
    stages = [{"timesteps": t, "search_share": s} for t, s in ((1, 0.75), (4, 0.25))]
    anytime = {"stages": stages, "held_out": None}
    told = "Stops early 75.0% of the search images at T = 1, 25.0% of the search images at T = 4"
    assert told in render(anytime=anytime).text
    found = {"mean_timesteps": 2.0, "drop": {"points": 0.42}}
    text = render(anytime={**anytime, "held_out": found}).text
    assert f"{told}; 2.00 timesteps on average and 0.42 points lost by it on held-out" in text


def test_a_gain_is_called_one(render: Render) -> None:
    text = render(accuracy__drop__points=-0.3).text
    assert "top-1 drops by -0.30 points (a gain)" in text
    assert "+0.30 points" in text


def test_integers_and_what_auto_chose_from_are_told(render: Render) -> None:
    precision = {
        "name": "int8",
        "integer_layers": 16,
        "real_layers": {"stem.0.conv": "its input is real"},
        "candidates": [
            {
                "precision": "fp32",
                "pruned": True,
                "file_bytes": 4_000_000,
                "drop": {"points": 1.25},
            },
            {"precision": "int8", "pruned": False, "file_bytes": 1_560_000, "drop": None},
        ],
    }
    page = render(precision=precision, constraints__budget_on="params")
    text = " ".join(page.text.split())
    assert "16 layers run on integers, on float32 stem.0.conv (its input is real); tried:" in text
    assert "fp32 pruned, 4.00 MB, 1.25 points lost; int8, 1.56 MB" in text
    assert "bytes of weights and biases)" in text
