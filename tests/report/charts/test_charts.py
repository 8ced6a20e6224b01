"""Charts: what they draw is what was measured; their colours follow the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import altair as alt
import msgspec
import pytest

from primesvt_deploy.report.charts import classes, costs, firing, loss, robustness, search, sizes
from primesvt_deploy.report.charts.several import kept_shares
from primesvt_deploy.report.charts.style import MOST_ROWS, Figure, chart_of, draw_static, figure
from primesvt_deploy.report.content import LayerBytes, ReportContent, TriedPlan
from primesvt_deploy.report.why import better_than_shipped


def rows_of(figure: Figure | None) -> list[dict[str, Any]]:
    """Rows of all layers of a chart."""
    assert figure is not None
    return [row for rows in figure.spec["datasets"].values() for row in rows]


def tried(size: int, drop: float, **changes: Any) -> TriedPlan:
    usual = {"step": "greedy", "rate": 0.5, "n": 100, "accepted": False}
    return TriedPlan(**{**usual, "bytes": size, "drop": drop, "low": drop, "high": drop, **changes})


def test_the_frontier_is_of_what_no_candidate_beats() -> None:
    plans = [
        tried(100, 5.0),
        tried(200, 6.0),  # larger and worse than the first
        tried(200, 3.0),
        tried(150, 1.0, n=49),  # seen too few images
        tried(350, 1.5, n=50),
        tried(120, 0.5, decision="beyond"),
        tried(300, 2.0),
        tried(400, 2.0),
    ]
    best = [(plan.bytes, plan.drop) for plan in search.frontier_of(plans)]
    assert best == [(100, 5.0), (200, 3.0), (300, 2.0), (350, 1.5)]


def test_candidates_that_lose_too_much_lie_on_the_lower_side(manifest: dict[str, Any]) -> None:
    drawn = search.size_and_accuracy([tried(4_000_000, 1.0), tried(3_000_000, 60.0)], manifest)
    points = {row["drop"][:5]: row for row in rows_of(drawn) if "beyond" in row}
    assert points["60.00"]["beyond"] and points["60.00"]["y"] == -9.0  # three times what is allowed
    assert not points["1.00 "]["beyond"] and points["1.00 "]["y"] == -1.0


def test_the_legend_names_only_what_is_drawn(manifest: dict[str, Any]) -> None:
    used = manifest["constraints"]["used_bytes"]
    plans = [tried(5_000_000, 1.0), tried(used, 1.86, accepted=True)]
    drawn = search.size_and_accuracy(plans, manifest)
    texts = [text for _, text in drawn.key]
    assert texts == ["candidate", "best of each size", "shipped", "allowed"]
    plans = [tried(5_000_000, 1.0, step="robustness"), tried(4_500_000, 0.5, accepted=True)]
    drawn = search.size_and_accuracy(plans, manifest)
    texts = [text for _, text in drawn.key]
    assert texts == ["one layer pruned alone", "accepted on the way", "shipped", "allowed"]


def test_why_better_candidates_are_not_shipped(manifest: dict[str, Any]) -> None:
    shipped = tried(manifest["constraints"]["used_bytes"], 1.86, accepted=True, n=5000)
    assert better_than_shipped([shipped, tried(3_000_000, 9.0, n=4000)], manifest) == ""
    said = better_than_shipped([shipped, tried(3_000_000, 1.0, n=4000)], manifest)
    assert "it ends as soon as the budget is met; some were judged on 4\u202f000 of 5" in said


def test_no_candidates_no_chart(manifest: dict[str, Any]) -> None:
    assert search.size_and_accuracy([], manifest) is None


def test_a_chart_of_many_layers_sums_up_the_small_ones() -> None:
    layers = [LayerBytes(layer=f"l{i}", dense=i + 1, shipped=i) for i in range(MOST_ROWS + 40)]
    rows = rows_of(sizes.layer_bytes(layers))
    assert len(rows) == MOST_ROWS
    assert rows[-1]["layer"] == "41 smaller layers"
    assert sum(row["dense"] for row in rows) == pytest.approx(100.0, abs=0.01)


def test_a_loss_of_what_is_allowed_is_drawn_as_allowed(plan: dict[str, Any]) -> None:
    steps = robustness.loss_steps(3.0)
    assert steps == pytest.approx((1, 2, 3, 6, 12))
    drawn = robustness.robustness(plan["robustness"], plan["widths"], 3.0)
    assert drawn is not None
    bounds = drawn.spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert bounds[2] > 3.0 and bounds[2] == pytest.approx(3.0)
    shipped = {(r["layer"], r["rate"]) for r in rows_of(drawn) if r.get("shipped")}
    assert shipped == {
        (layer, f"{100 * p['rate']:g}%")
        for curve in plan["robustness"]
        for layer in [curve["layer"]]
        for p in curve["curve"]
        if p["kept"] == plan["widths"][layer]
    }


@pytest.mark.parametrize("most", [None, 0.0])
def test_a_heat_map_needs_no_limit(plan: dict[str, Any], most: float | None) -> None:
    assert robustness.robustness(plan["robustness"], {}, most) is not None


def test_the_interval_is_drawn_as_it_is_in_the_manifest(manifest: dict[str, Any]) -> None:
    rows = rows_of(loss.loss_interval(manifest))
    (held_out,) = (row for row in rows if row.get("images") == "held-out images")
    assert (held_out["low"], held_out["drop"], held_out["high"]) == (1.31, 2.0, 2.69)


def test_the_line_of_what_is_allowed_leaves_out_the_labels(manifest: dict[str, Any]) -> None:
    drawn = loss.loss_interval(manifest)
    assert drawn is not None
    height, layers = drawn.spec["height"], [layer["encoding"] for layer in drawn.spec["layer"]]
    lines = [(e["y"]["value"], e["y2"]["value"]) for e in layers if "value" in e.get("y2", {})]
    labels = [(row * height / 2, row * height / 2 + 12) for row in range(2)]  # 7 above the middle
    assert len(lines) == 2
    for top, bottom in lines:
        assert top < bottom <= height
        assert not any(top < low and high < bottom for high, low in labels)


def test_the_difference_of_confusions_is_good_on_the_diagonal(content: ReportContent) -> None:
    rows = rows_of(classes.confusion(content.confusion, content.classes))
    for row in rows:
        assert row["difference"] == row["shipped"] - row["dense"]
        assert row["sign"] == (-1 if row["label"] == row["predicted"] else 1)


def test_too_many_classes_are_no_matrix(content: ReportContent) -> None:
    many = tuple(f"class {i}" for i in range(classes.MOST_CLASSES + 1))
    assert classes.confusion(content.confusion, many) is None


def test_memory_that_was_not_measured_is_left_out(content: ReportContent) -> None:
    stages = [msgspec.structs.replace(content.memory[0], dense=None), content.memory[1]]
    assert len(rows_of(costs.memory(stages))) == 3


def test_channels_that_all_work_are_no_chart(content: ReportContent) -> None:
    busy = [msgspec.structs.replace(entry, silent=0, constant=0) for entry in content.firing]
    assert firing.idle_channels(busy) is None
    assert firing.idle_channels(content.firing) is not None


def test_what_several_keep_is_a_share_of_what_there_was() -> None:
    rows = rows_of(kept_shares([{"a": (3, 4)}, {"a": (4, 4), "b": (1, 2)}]))
    assert [(r["bundle"], r["layer"], r["share"]) for r in rows] == [
        (1, "a", 0.75),
        (2, "a", 1.0),
        (2, "b", 0.5),
    ]


def test_a_picture_is_well_formed_and_takes_the_colours_of_the_page() -> None:
    bars = chart_of([{"layer": 'x" <&> $a$ ' + "y" * 50, "v": 3}]).mark_bar(color="var(--dense)")
    drawn = figure("x", "x", bars.encode(x="v:Q", y=alt.Y("layer:N")), height=20)
    svg = draw_static(drawn)
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg") and root.get("viewBox")
    assert 'x" <&> $a$' in "".join(root.itertext())
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg))
    assert "var(--dense)" in colours and "var(--ink)" in colours
    assert all(c in ("none", "transparent") or c.startswith("var(--") for c in colours), colours
    assert " id=" not in svg  # pictures in one page would share them
    assert svg == draw_static(drawn)


def test_charts_name_nothing_by_themselves(html: str) -> None:
    """Altair numbers what it names: the second page of a process would differ."""
    text = html.split('id="charts">')[1].split("</script>")[0]
    assert not re.search(r'"(?:view|param|concat)_\d+"', text)
