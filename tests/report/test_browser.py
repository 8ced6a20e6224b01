"""The page in a browser: nothing is logged, asked of a network, or wider than the screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from html_page import PLAIN
from made_up_build import example_content, example_manifest, example_plan

from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.comparison import render_comparison
from primesvt_deploy.report.read import BundleReport

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
LONG = "a.module.of.a.user.with.a.name.that.is.longer.than.any.column.of.a.telephone.is.wide"
WIDER_THAN_THEIR_PLACE = """
[...document.querySelectorAll(".chart")]
  .filter((chart) => chart.scrollWidth > chart.clientWidth).map((chart) => chart.id)
"""
COLOURS_OF_LETTERS = """
[...document.querySelectorAll(".vega-embed text")].map((letters) => getComputedStyle(letters).fill)
"""
HOSTILE = '</script><img src="http://example.com/x"><!-- ${alert(1)}'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


def awkward() -> str:
    """A page of names that are long and hostile."""
    manifest, content = example_manifest(), example_content()
    manifest["model"]["name"] = LONG + HOSTILE
    named = msgspec.structs.replace(
        content,
        layers=tuple(
            msgspec.structs.replace(layer, layer=f"{LONG}.{i}")
            for i, layer in enumerate(content.layers)
        ),
        classes=(LONG, HOSTILE, *content.classes[2:]),
    )
    return render_report(manifest, example_plan(), named, bundle=f"/{LONG}")


def several() -> str:
    """A page of three bundles."""
    parts = (example_manifest(), example_plan(), example_content())
    return render_comparison([BundleReport(path, *parts) for path in ("a/bundle", LONG, "c")])


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A page whose charts are drawn; afterwards all that it logged or asked for is judged."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
    page, noticed = context.new_page(), []
    page.on("console", lambda message: noticed.append(message.text))
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.on("request", lambda request: noticed.append(request.url))
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        wait_until_drawn(page)
    yield page
    context.close()
    assert [what for what in noticed if not what.startswith("data:")] == [path.as_uri()]


def wait_until_drawn(page: Any) -> None:
    page.wait_for_selector("html[data-drawn=all]", state="attached")


@pytest.fixture(scope="module")
def file(directory: Path, html: str) -> Path:
    """The page of everything."""
    (directory / "whole.html").write_text(html)
    return directory / "whole.html"


@pytest.fixture(scope="module")
def whole(browser: Any, file: Path) -> Iterator[Any]:
    """The page of everything, opened once."""
    with opened(browser, file) as page:
        yield page


def text_of(page: Any) -> str:
    return re.sub(r"\s+", " ", page.inner_text("main").translate(PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "awkward", "several"])
def test_fits_every_screen_and_logs_nothing(
    browser: Any, directory: Path, html: str, name: str
) -> None:
    made = {"whole": lambda: html, "awkward": awkward, "several": several}
    (directory / f"{name}.html").write_text(made[name]())
    with opened(browser, directory / f"{name}.html") as page:
        for width in (1400, 400):
            page.set_viewport_size({"width": width, "height": 900})
            wait_until_drawn(page)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(WIDER_THAN_THEIR_PLACE) == []
            for scheme, ink in (("light", "rgb(27, 31, 36)"), ("dark", "rgb(230, 232, 235)")):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("getComputedStyle(document.body).color") == ink
                assert ink in page.evaluate(COLOURS_OF_LETTERS)
        assert not page.query_selector(".chart > svg")


def test_what_each_layer_keeps_fits_a_telephone(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        assert not page.locator("details.contents").is_visible()
        page.set_viewport_size({"width": 400, "height": 900})
        wait_until_drawn(page)
        box = "document.querySelector('table.keeps').closest('.scroll')"
        assert page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") <= 0
        page.click("details.contents summary")
        page.click("details.contents a[href='#next']")
        assert page.url.endswith("#next")


def test_key_numbers_are_the_manifests(whole: Any) -> None:
    manifest = example_manifest()
    accuracy, size = manifest["accuracy"], manifest["size"]
    low, high = accuracy["drop"]["interval95_points"]
    text = text_of(whole)
    for number in (
        f"{size['shipped']['file_bytes'] / 1e6:.2f} MB",
        f"{accuracy['shipped']['top1_percent']:.2f}%",
        f"-{accuracy['drop']['points']:.2f} points",
        f"[{low:.2f}, {high:.2f}]",
        f"{manifest['latency']['shipped']['median_ms']:.2f} ms",
    ):
        assert number in text
    drawn = whole.text_content("#chart-loss").translate(PLAIN)
    assert f"{accuracy['drop']['points']:.2f} points [{low:.2f}, {high:.2f}]" in drawn


def test_tables_are_sorted_and_searched(whole: Any) -> None:
    whole.click("#bytes summary")
    rows = whole.locator("#bytes tbody tr:not([hidden]) th")
    before = rows.all_inner_texts()
    dense = "#bytes thead th:nth-child(3)"
    whole.click(f"{dense} button")
    ascending = rows.all_inner_texts()
    assert ascending[:2] == ["stem.0.conv", "head"]
    assert whole.get_attribute(dense, "aria-sort") == "ascending"
    whole.click(f"{dense} button")
    assert rows.all_inner_texts()[0] == "stem.position.conv"
    assert sorted(ascending) == sorted(before)
    whole.fill("#bytes input[type=search]", "ATTN.Q.C")
    found = sorted(rows.all_inner_texts())
    assert found == ["blocks.0.attn.q.conv", "blocks.1.attn.q.conv"]


def test_charts_tell_more_and_switch(whole: Any) -> None:
    whole.locator("#chart-latency .mark-rect path").first.hover()
    tooltip = whole.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert "23.41 ms" in tooltip.inner_text().translate(PLAIN)
    whole.check("#chart-confusion input[value=difference]")
    whole.wait_for_function(
        "document.querySelector('#chart-confusion svg').textContent.includes('+')"
    )


def test_paper_shows_what_is_folded_away(whole: Any) -> None:
    whole.emulate_media(media="print", color_scheme="dark")
    white = "rgb(255, 255, 255)"
    assert whole.evaluate("getComputedStyle(document.body).backgroundColor") == white
    folded = whole.locator("details:not([open])")
    whole.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.count() == 0
    whole.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folded.count() > 3


def test_works_without_script(browser: Any, file: Path) -> None:
    with opened(browser, file, java_script_enabled=False) as page:
        assert page.locator(".chart > svg").count() == 19
        assert "Constraints met." in text_of(page)
        box = page.locator("#chart-robustness svg").bounding_box()
        assert box["width"] > 600 and box["height"] > 150
