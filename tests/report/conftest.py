"""The made-up build, whole and with parts replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from html_page import Page
from made_up_build import example_content, example_manifest, example_plan

from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.content import ReportContent

Render = Callable[..., Page]


@pytest.fixture
def manifest() -> dict[str, Any]:
    return example_manifest()


@pytest.fixture
def plan() -> dict[str, Any]:
    return example_plan()


@pytest.fixture(scope="session")
def content() -> ReportContent:
    return example_content()


@pytest.fixture(scope="session")
def html() -> str:
    """The page with everything."""
    return render_report(example_manifest(), example_plan(), example_content())


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def without_pictures() -> Iterator[None]:
    """Pages whose charts have no still pictures: these take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("primesvt_deploy.report.page.draw_static", lambda figure: "<svg></svg>")
        yield


@pytest.fixture
def render(manifest: dict[str, Any], plan: dict[str, Any], without_pictures: None) -> Render:
    """Renders the example without content, with some values of its manifest replaced.

    Values are named by their paths, with two underscores between.
    """

    def apply(content: ReportContent | None = None, **changes: Any) -> Page:
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = manifest
            for parent in parents:
                target = target[parent]
            target[last] = value
        return Page(render_report(manifest, plan, content))

    return apply
