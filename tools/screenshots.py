"""Take screenshots of a bundle's report for the documentation.

    python tools/screenshots.py BUNDLE [BUNDLE...] [--output docs/images]

The report is drawn anew and opened in Chromium (`--browser`, or `chromium` on the path): on a
screen and on a telephone, light and dark, and some of its sections alone. Several bundles give one
picture more, of their comparison, beside those of the first.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.comparison import render_comparison
from primesvt_deploy.report.read import read_bundle

MOST_BYTES = 300_000
SCREENS = {"screen": (1400, 1000), "phone": (400, 860)}
SECTIONS = ("bytes", "search", "robustness", "spikes", "sample", "classes", "next")


@contextmanager
def opened(browser: Any, file: Path, width: int, height: int, scheme: str) -> Iterator[Any]:
    """A page whose charts are drawn.

    Args:
        browser: that opens it.
        file: the page.
        width: of the screen, pixels.
        height: likewise.
        scheme: `light` or `dark`.
    """
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn=all]", state="attached")
    yield page
    context.close()


def shrunk(picture: bytes) -> bytes:
    """A PNG of at most 256 colours, which a page of charts hardly exceeds.

    Raises:
        ValueError: it is larger than `MOST_BYTES` all the same.
    """
    with Image.open(io.BytesIO(picture)) as image, io.BytesIO() as file:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
        found = file.getvalue()
    if len(found) > MOST_BYTES:
        raise ValueError(f"a picture has {len(found)} bytes, at most {MOST_BYTES} are wanted")
    return found


def pictures_of_a_bundle(browser: Any, file: Path) -> Iterator[tuple[str, bytes]]:
    """Names and content of all pictures of a bundle's page."""
    for screen, (width, height) in SCREENS.items():
        for scheme in ("light", "dark"):
            with opened(browser, file, width, height, scheme) as page:
                yield f"report-{screen}-{scheme}", page.screenshot()
    with opened(browser, file, *SCREENS["screen"], "light") as page:
        for section in SECTIONS:
            place = page.locator(f"#{section}")
            if place.count():
                yield f"report-{section}", place.screenshot()


def take(pages: Sequence[str], output: Path, browser: str) -> list[Path]:
    """Write the pictures.

    Args:
        pages: HTML of a bundle's page, and of a comparison if there is one.
        output: the directory.
        browser: path of Chromium.

    Returns:
        Their files.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(prefix="report-") as name, sync_playwright() as started:
        running = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        file = Path(name) / "page.html"
        file.write_text(pages[0], encoding="utf-8")
        pictures = list(pictures_of_a_bundle(running, file))
        for page in pages[1:]:
            file.write_text(page, encoding="utf-8")
            with opened(running, file, *SCREENS["screen"], "light") as shown:
                pictures.append(("report-several", shown.screenshot()))
        running.close()
    for name, picture in pictures:
        written.append(output / f"{name}.png")
        write_whole(written[-1], shrunk(picture))
    return written


def main() -> int:
    """Take them of the bundles that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    if given.browser is None:
        parser.error("there is no chromium on the path: install it, or name it with --browser")
    found = [read_bundle(bundle) for bundle in given.bundles]
    first = found[0]
    pages = [render_report(first.manifest, first.plan, first.content, bundle=first.path)]
    if found[1:]:
        pages.append(render_comparison(found))
    for file in take(pages, given.output, given.browser):
        print(f"{file}: {file.stat().st_size / 1e3:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
