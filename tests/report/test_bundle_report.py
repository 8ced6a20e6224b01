"""The page of a bundle: every number, safe text, nothing from outside, whatever is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from html_page import Page

from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.content import LayerBytes, ReportContent, Sensitivity

DASH = "\N{EN DASH}"
HOSTILE = '</script><script>alert("x")</script><!--<img src=x onerror=alert(1)>{{ 7 * 7 }}'
Render = Callable[..., Page]


def test_sections_go_from_what_decides_to_what_explains(page: Page) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page.source.split("<footer>")[0]) == [
        *("Before and after", "What to try next", "Where the bytes are", "Size against accuracy"),
        *("Robustness", "Precision", "Time, memory, energy", "Spikes", "One image", "Classes"),
        *("Verification", "How it was made"),
    ]
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    links = [value for value in page.values("href") if value.startswith("#")]
    assert links and {link[1:] for link in links} <= set(ids)


NUMBERS = """
4.19 MB of at most 4.20 MB|5.81 MB|-27.9%|1 432 123|1 026 123|5.70 MB|4.08 MB|412.35 M|300.35 M
-27.2%|4 timesteps|10 classes|75.32%|[74.1, 76.5]|3 766 of n = 5 000|73.32%|[72.1, 74.5]
3 666 of n = 5 000|-2.00 points|[-2.69, -1.31]|203 are right|103 in the|76.02%|[74.8, 77.2]
3 801 of|1.86 points|23.41 ms|95% within 25.90 ms|17.81 ms|95% within 19.22 ms|1.31 x faster
100 runs|2 threads|Cortex-A76|116 candidates|32 of them|2 500 images or more|512 search images
78.00 MB|84.50 MB|256 images|dog with a probability of 61.4%|12 of 203|99.61%|disagreements: 1
0.123|3.1 x 10⁻⁶|98 765 432|images with a flipped spike 5|Flipped spikes 17|in all 7 min 0 s
python 3.11.2|torch 2.14.0|primesvt-deploy 0.7.1|2026-03-01 12:34 UTC|Seed 11|multiples of 1
1.56 MB|872.3 KB|4.42|ab12ab12ab12…|12 heads|Rates tried 10%, 20%|stem.1 0 3 8 5
"""


def test_every_number_is_there(page: Page) -> None:
    text = page.text.lower()
    missing = [n for n in re.split(r"[|\n]", NUMBERS.strip()) if n.lower() not in text]
    assert not missing


def test_stands_alone(page: Page, html: str) -> None:
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    shown = html.replace(page.scripts[1], "")  # Vega's code names its home
    assert not re.search(r"url\((?!#)|@import", shown)
    assert all(v.startswith("data:image/png;base64,") for v in page.values("src"))
    assert all(value.startswith("#") for value in page.values("href"))
    assert html.startswith("<!DOCTYPE html>") and len(html.encode()) < 3_000_000
    for rule in ("prefers-color-scheme: dark", "@media print", "size: A4"):
        assert rule in html


def test_its_policy_allows_its_own_scripts_and_nothing_else(page: Page) -> None:
    (policy,) = (v for v in page.values("content") if v.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "connect-src" not in policy
    assert policy.count("'sha256-") == 2 == len(page.scripts) - 1


def test_the_same_inputs_give_the_same_page(
    manifest: dict[str, Any], plan: dict[str, Any], content: ReportContent, html: str
) -> None:
    assert render_report(manifest, plan, content) == html


def test_every_chart_has_a_still_picture(page: Page, html: str) -> None:
    specs = json.loads(page.scripts[0])["specs"]
    assert len(specs) == 19
    for name in specs:
        assert f'id="chart-{name}"' in html
    assert page.tags.count("svg") == len(specs) + 1  # and the veil over the sample image
    assert len([label for label in page.values("aria-label") if label]) >= len(specs)


def test_shares_of_bytes_sum_to_all(page: Page, content: ReportContent) -> None:
    table = page.source.split("<tfoot>")[1].split("</tfoot>")[0]
    assert table.count("100.0%") == 2
    for model in ("dense", "shipped"):
        total = sum(getattr(layer, model) for layer in content.layers)
        assert f"{total:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") in table
    body = page.source.split('aria-label="Bytes by layer"')[1].split("<tfoot>")[0]
    rows = [re.findall(r'data-value="([^"]*)"', row) for row in body.split("<tr>")[2:]]
    assert len(rows) == len(content.layers)
    for column in (1, 3):
        assert sum(float(row[column]) for row in rows) == pytest.approx(1.0)


def test_a_hostile_name_stays_text(
    manifest: dict[str, Any], plan: dict[str, Any], content: ReportContent
) -> None:
    manifest["model"]["name"] = manifest["latency"]["cpu"] = HOSTILE
    manifest["constraints"]["stopped_by"] = HOSTILE
    manifest["versions"] = {HOSTILE: HOSTILE}
    manifest["compute"] = {**dict.fromkeys(manifest["compute"], HOSTILE), "workers": 8}
    manifest["files"] = {HOSTILE: {"sha256": HOSTILE, "bytes": 1}}
    manifest["policy"]["ignore"] = [HOSTILE]
    manifest["notes"] = [HOSTILE]
    plan["robustness"][0]["layer"] = HOSTILE
    hostile = msgspec.structs.replace(
        content,
        layers=(LayerBytes(layer=HOSTILE, group=HOSTILE, dense=2, shipped=1),),
        classes=(HOSTILE, *content.classes[1:]),
        sensitivity_of=HOSTILE,
        notes=(HOSTILE,),
        lost=tuple(msgspec.structs.replace(lost, label=HOSTILE) for lost in content.lost),
        sample=msgspec.structs.replace(content.sample, label=HOSTILE, attention_layer=HOSTILE),
    )
    read = Page(render_report(manifest, plan, hostile, bundle=f"b {HOSTILE}"))
    assert len(read.scripts) == 3
    assert read.tags.count("img") == 2 + len(content.lost)
    assert not {name for _, name, _ in read.attributes if name.startswith("on")}
    assert HOSTILE in read.text and "49" not in read.text.split(HOSTILE)[1][:4]
    (rows,) = json.loads(read.scripts[0])["specs"]["robustness"]["datasets"].values()
    assert HOSTILE in {row["layer"] for row in rows}


SHOWN = (
    *("tool", "created", "model", "constraints", "size", "accuracy", "latency", "precision"),
    *("verification", "policy", "compute", "seconds", "versions", "files", "anytime"),
    *("finetune",),
)


@pytest.mark.parametrize("key", SHOWN)
def test_a_section_may_be_null_or_missing(
    render: Render, manifest: dict[str, Any], plan: dict[str, Any], key: str
) -> None:
    plan["robustness"] = []  # a chart less to draw
    pages = [render(**{key: None})]
    del manifest[key]
    pages.append(render())
    for page in pages:
        assert "None" not in page.text and "Undefined" not in page.text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("constraints__budget_bytes", "The model file: 4.19 MB; no budget was set."),
        ("size__dense", f"Model file {DASH} 4.19 MB"),
        ("accuracy__drop", "The accuracy lost was not measured."),
        ("accuracy__search", "On 5 000 held-out images"),
        ("accuracy__shipped", f"3 766 of n = 5 000 {DASH} -2.00 points"),
        ("latency__ratio_median", f"95% within 19.22 ms {DASH}"),
        ("verification__flips", "Which layers the flipped spikes are in was not recorded."),
        ("policy__rates", f"Rates tried {DASH}"),
        ("policy__search_images", "Search images all"),
        ("model__labels", f"classes {DASH}"),
        ("constraints__max_drop_points", "no limit was set"),
        ("latency", "Latency was not measured."),
        ("verification", "The shipped file was not verified."),
        ("precision", "The precision was not recorded."),
    ],
)
def test_what_is_missing_is_told(
    render: Render, plan: dict[str, Any], path: str, shown: str
) -> None:
    plan["robustness"] = []
    page = render(**{path: None})
    assert shown in page.text
    assert "None" not in page.text


def test_nothing_at_all_still_renders(without_pictures: None) -> None:
    text = Page(render_report({}, {}, None)).text
    assert "Whether the constraints are met is not recorded." in text
    assert "No robustness curve was measured." in text
    assert "No channel was removed." in text


def test_an_empty_content_says_what_was_not_gathered(render: Render) -> None:
    text = render(ReportContent(notes=("memory: this system does not tell",))).text
    assert "Not gathered memory: this system does not tell" in text
    for words in ("Memory was not measured.", "Firing rates were not recorded."):
        assert words in text


def test_a_bundle_of_an_earlier_version_shows_what_it_has(render: Render) -> None:
    page = render()
    assert "It has no report.json" in page.text
    assert "Where the bytes are" not in page.text
    assert "blocks.0.mlp 768" in page.text
    assert set(json.loads(page.scripts[0])["specs"]) == {
        *("loss", "robustness", "precisions", "latency")
    }


def test_what_each_layer_keeps_is_known_without_curves(render: Render, plan: Any) -> None:
    layers = [{k: c[k] for k in ("layer", "width", "heads", "size")} for c in plan["robustness"]]
    plan |= {"robustness": [], "groups": layers}
    plan["policy"]["steps"] = []
    text = render().text
    assert "residual 192 192 kept" in text
    assert "blocks.0.mlp 768 384 50.0%" in text
    assert "Points lost so far" not in text
    assert "everything that is added to the residual stream." in text


def test_sensitivity_alone_has_no_empty_part_beside_it(
    render: Render, plan: Any, content: ReportContent
) -> None:
    plan["robustness"] = []
    page = render(ReportContent(sensitivity=content.sensitivity))
    assert "<h2>Sensitivity</h2>" in page.source
    assert "obustness curve" not in page.text and "<h3>Sensitivity" not in page.source


def test_why_a_group_went_is_told_from_what_was_measured(render: Render) -> None:
    low, high = (
        Sensitivity(group=name, rates=(0.2, 0.6), values=values)
        for name, values in (("blocks.1.mlp", (0.001, 0.002)), ("stem.0", (0.3, 0.7)))
    )
    text = render(ReportContent(sensitivity=(low, high))).text
    for words in (
        "blocks.1.mlp lost the largest share, 60.0%: with 60% of it alone removed, the answers "
        "diverged by 0.002 nats, the least of all 2 layers at about that rate.",
        "stem.0 was kept whole: with 20% of it alone removed, they already diverged by 0.3 nats, "
        "the most of all 2 layers at about that rate.",
    ):
        assert words in text
    assert "lost the largest share" not in render().text


def test_why_a_layer_came_first_is_its_curve(render: Render) -> None:
    text = render(policy__policy="prioritized").text
    assert "Prioritized goes from the largest layer to the smallest" in text
    assert "blocks.0.mlp came first: pruned alone, it kept the constraint at rates up to" in text


def test_where_sizes_decided_no_constraint_is_named(render: Render, plan: Any) -> None:
    plan["policy"] |= {"steps": [], "search_drop_points": None}
    text = render(policy__policy="prioritized", constraints__max_drop_points=None).text
    assert "as no accuracy was asked for, sizes alone decided. A row" in text
    assert "No channel was removed" not in text


def test_what_disturbed_the_times_is_a_list_and_flags_them(render: Render) -> None:
    notes = ["machine busy: other programs took 139% of one core", "noisy: dense: p95"]
    page = render(latency__notes=notes)
    assert "Measured under disturbance" in page.text
    assert "<li>noisy: dense: p95.</li>" in page.source
    assert "<em>machine busy</em>" in page.source
    page = render(latency__notes=["frequency governor powersave: the clock follows the load"])
    assert "Measured under disturbance" not in page.text and "<em>" not in page.source


def test_no_accuracy_asked_for_is_no_accuracy_met(render: Render) -> None:
    text = render(constraints__max_drop_points=None).text
    assert "Budget met; no accuracy was asked for." in text
    assert "Constraints met" not in text


def test_stages_that_stop_early_are_told(render: Render) -> None:
    stages = [{"timesteps": t, "search_share": s} for t, s in ((1, 0.75), (4, 0.25))]
    anytime = {"stages": stages, "held_out": None}
    told = "Stops early 75.0% of the search images at T = 1, 25.0% of the search images at T = 4"
    assert told in render(anytime=anytime).text
    found = {"mean_timesteps": 2.0, "drop": {"points": 0.42}}
    text = render(anytime={**anytime, "held_out": found}).text
    assert f"{told}; 2.00 timesteps on average and 0.42 points lost by it on held-out" in text


def test_layers_on_floats_are_named_by_the_reason(render: Render) -> None:
    real = {"stem.0.conv": "its input is real", "head": "its input is real"}
    page = render(precision__name="int8", precision__integer_layers=16, precision__real_layers=real)
    text = page.text
    assert "int8: 16 layers run on integers" in text
    assert "On float32: stem.0.conv, head (its input is real)." in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Device cuda:1, NVIDIA H200 Candidates judged in fp32 Evaluated by Ray, 8 workers"),
        (
            {"compute__workers": None, "compute__evaluation_precision": "bf16"},
            "Candidates judged in bf16 Evaluated by Ray Time",
        ),
        ({"compute__engine": "in-process", "compute__device": "cpu"}, "Evaluated by one process"),
    ],
)
def test_where_it_was_computed_is_told(
    render: Render, changes: dict[str, object], told: str
) -> None:
    assert told in render(**changes).text
