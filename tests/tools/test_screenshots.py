"""Screenshots of a report for the documentation."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
PAGE = """<!DOCTYPE html><html data-drawn="all"><head><style>
body { margin: 0 } @media (prefers-color-scheme: dark) { body { background: #14171c } }
</style></head><body><section id="bytes">bytes</section><section id="next">next</section></body>
</html>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_pictures_are_of_every_screen_and_of_the_sections_that_there_are(tmp_path: Path) -> None:
    from screenshots import SCREENS, take

    files = take([PAGE, PAGE], tmp_path / "images", str(CHROMIUM))
    screens = [f"report-{screen}-{s}" for screen in SCREENS for s in ("light", "dark")]
    names = [*screens, "report-bytes", "report-next", "report-several"]
    assert [file.stem for file in files] == names
    found = []
    for file in files[:4]:
        with Image.open(file) as image:
            found.append((image.size, image.convert("RGB").getpixel((image.width - 1, 300))))
    white, black = (255, 255, 255), (20, 23, 28)
    assert found == [(size, ink) for size in SCREENS.values() for ink in (white, black)]


def test_a_picture_that_stays_large_is_refused() -> None:
    from screenshots import shrunk

    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, "PNG")
        with pytest.raises(ValueError, match="at most 300000"):
            shrunk(file.getvalue())
