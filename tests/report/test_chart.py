"""The robustness chart: well-formed, the same each time, faithful to its points."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import pytest

from primesvt_deploy.report.chart import _apart, dense_percent, robustness_svg

SVG = "{http://www.w3.org/2000/svg}"


def curve(layer: str, drops: list[float], *, n: int = 512, dense: float = 75.0) -> dict[str, Any]:
    points = [
        {
            "rate": (i + 1) / 10,
            "kept": 100 - 10 * (i + 1),
            "top1_percent": dense - drop,
            "drop_points": drop,
            "n": n,
            "within": drop <= 1.0,
        }
        for i, drop in enumerate(drops)
    ]
    return {"layer": layer, "width": 100, "heads": 1, "size": 9, "target": True, "curve": points}


CURVES = [curve("blocks.0.mlp", [0.2, 0.9, 4.0]), curve("stem.0", [3.0, 20.0, 60.0])]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


def test_is_one_well_formed_svg_element_that_names_every_curve() -> None:
    svg = robustness_svg(CURVES, max_drop=1.0)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert "2 layers:" in (root.get("aria-label") or "")
    assert {"blocks.0.mlp", "stem.0"} <= set(texts(svg))


def test_scales_with_the_page_and_takes_its_text_colour() -> None:
    root = ET.fromstring(svg := robustness_svg(CURVES))
    assert root.get("viewBox")
    assert root.get("width") is None and root.get("height") is None
    assert "currentColor" in svg
    assert "#ffffff" not in svg and "#000000" not in svg


def test_refers_to_nothing_outside_itself() -> None:
    svg = re.sub(r'xmlns(:\w+)?="[^"]*"', "", robustness_svg(CURVES, max_drop=1.0))
    assert "http" not in svg
    assert "<script" not in svg
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))


def test_same_curves_give_the_same_bytes_and_no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    first = robustness_svg(CURVES, max_drop=1.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert robustness_svg(CURVES, max_drop=1.0) == first
    assert "<metadata" not in first
    assert "date" not in first.lower()


def test_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    robustness_svg(CURVES)
    assert dict(matplotlib.rcParams) == before


def test_constraint_line_is_dense_less_the_permitted_drop() -> None:
    assert "constraint 73.5%" in texts(robustness_svg(CURVES, max_drop=1.5))
    assert not [t for t in texts(robustness_svg(CURVES)) if "constraint" in t]


def test_dense_accuracy_is_that_of_the_points_that_saw_most_images() -> None:
    given_up = curve("stem.0", [30.0], n=64, dense=71.0)
    assert dense_percent([given_up, *CURVES]) == pytest.approx(75.0)
    assert dense_percent([]) is None


def test_hollow_markers_are_the_points_that_break_the_constraint() -> None:
    all_within = robustness_svg([curve("a", [0.1, 0.2])])
    one_broken = robustness_svg([curve("a", [0.1, 2.0])])
    hollow = re.compile(r"<use [^>]*fill(?:: none|-opacity: 0[;\"])")
    assert not hollow.search(all_within)
    assert len(hollow.findall(one_broken)) == 1


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', "a & b", "$x^2$ _{", "]]>"])
def test_layer_names_are_shown_as_they_are(name: str) -> None:
    svg = robustness_svg([curve(name, [0.5])])
    assert name in texts(svg)
    assert "<script" not in svg


@pytest.mark.parametrize(
    "curves", [[], [{"layer": "a", "curve": []}], [{"layer": "a", "curve": [{"rate": 0.1}]}]]
)
def test_nothing_to_draw_is_no_error(curves: list[dict[str, Any]]) -> None:
    assert ET.fromstring(robustness_svg(curves, max_drop=1.0)).tag == f"{SVG}svg"


def test_many_layers_get_labels_that_do_not_touch() -> None:
    svg = robustness_svg([curve(f"blocks.{i}.mlp", [0.1, 0.01 * i]) for i in range(40)])
    heights = [
        float(node.get("y") or "nan")
        for node in ET.fromstring(svg).iter(f"{SVG}text")
        if "blocks" in "".join(node.itertext())
    ]
    assert len(heights) == 40
    gaps = [b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)]
    assert min(gaps) > 10  # the text is 8.5 high


def test_labels_move_no_more_than_they_must() -> None:
    assert _apart([9.0, 5.0, 1.0], 1.0, 0.0) == [9.0, 5.0, 1.0]
    assert _apart([5.0, 5.0], 1.0, 0.0) == [5.0, 4.0]
    assert _apart([0.2, 0.1], 1.0, 0.0) == [1.0, 0.0]
