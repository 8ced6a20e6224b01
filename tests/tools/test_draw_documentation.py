"""The pictures of the documentation are those of their sources."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import draw_documentation as drawn
import pytest


@pytest.mark.parametrize("name", drawn.PICTURES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    committed = (drawn.IMAGES / f"{name}.svg").read_text()
    assert committed == drawn.PICTURES[name](), "run python tools/draw_documentation.py"
    ElementTree.fromstring(committed)


def test_every_picture_is_shown() -> None:
    pages = "".join(page.read_text() for page in Path(drawn.ROOT / "docs").glob("*.md"))
    for name in drawn.PICTURES:
        assert f"(images/{name}.svg)" in pages


def test_the_curves_show_every_policy_and_each_of_its_points() -> None:
    picture = drawn.accuracy_and_size()
    series = drawn.results("frontier")["series"]
    shown = [
        point
        for one in series
        if one["recovery"] == "all" and one["policy"] in drawn.COLOURS
        for point in one["points"]
        if point["met"] and point["drop"]["points"] <= 20.0
    ]
    assert picture.count("<circle") == len(shown) > 20
    for policy in drawn.COLOURS:
        assert f">{policy}<" in picture


def test_the_map_has_a_cell_for_each_layer_and_rate() -> None:
    layers = drawn.results("robustness")["layers"]
    cells = sum(len(curve["curve"]) for curves in layers.values() for curve in curves)
    assert drawn.robustness().count(' fill="#') == cells > 100
