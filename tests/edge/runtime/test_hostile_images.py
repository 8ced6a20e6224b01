"""Damaged images, and small files that cost much: an image or one line, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile_files import hostile_images, image_bombs, jpeg_with_exif, png, small_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from primesvt_deploy.edge.runtime.errors import ImageError, PreprocessingError
from primesvt_deploy.edge.runtime.files import read_regular
from primesvt_deploy.edge.runtime.images import decode_image, read_image
from primesvt_deploy.edge.runtime.pixel_limit import MAX_PIXELS, PIXELS_VARIABLE
from primesvt_deploy.edge.runtime.preprocess import Preprocessing

_MEASURED = """
import sys, time
import PIL.Image
from primesvt_deploy.edge.runtime.errors import ImageError
from primesvt_deploy.edge.runtime.images import read_image
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
before, start = peak(), time.monotonic()
try:
    said = read_image(sys.argv[1], upright=True).shape
except ImageError as error:
    said = error
print(peak() - before, time.monotonic() - start, said)
"""


def measured(path: Path) -> tuple[int, float, str]:
    """Megabytes and seconds that reading an image takes in a process of its own, and its end."""
    line = [sys.executable, "-c", _MEASURED, str(path)]
    found = subprocess.run(line, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert found.stdout.count("\n") == 1
    megabytes, seconds, said = found.stdout.strip().split(" ", 2)
    return int(megabytes), float(seconds), said


def test_damage_is_an_image_or_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    refused = 0

    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(seed=st.integers(0, 2**32), upright=st.booleans(), grey=st.booleans())
    def holds(seed: int, upright: bool, grey: bool) -> None:
        nonlocal refused
        for description, content in hostile_images(seed, 16):
            try:
                found = decode_image(content, name="cat", upright=upright, grey=grey)
            except ImageError as error:
                refused += 1
                assert str(error).startswith("cat: found "), description
                assert str(error).isprintable(), description
            else:
                assert found.dtype == np.uint8 and found.shape[2] == (1 if grey else 3)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        holds()
    assert refused > 100
    assert not warned
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", image_bombs())
def test_a_small_file_costs_little(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(image_bombs()[name]())
    megabytes, seconds, _ = measured(tmp_path / "a")
    assert megabytes < 120
    assert seconds < 5


@pytest.mark.slow
def test_the_largest_image_takes_12_bytes_a_pixel(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    (tmp_path / "a").write_bytes(png(side, side, bytes(1 + 3 * side)))
    megabytes, _, said = measured(tmp_path / "a")
    assert said == f"({side}, {side}, 3)"
    assert megabytes < 12 * MAX_PIXELS / 2**20


def test_eight_threads_read_all_formats_and_standard_error_stays(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What another thread writes there meanwhile is neither lost nor mixed with anything."""
    whole = list(small_images().items())
    expected = {name: decode_image(content) for name, content in whole}
    truncated = [content[: len(content) // 2] for name, content in whole if "tiff" in name]
    filters, words = list(warnings.filters), [f"word {i}\n" for i in range(300)]
    start = threading.Barrier(9)

    def read(number: int) -> None:
        start.wait()
        for name, content in (whole[number:] + whole[:number]) * 4:
            np.testing.assert_array_equal(decode_image(content), expected[name])
            with pytest.raises(ImageError):
                decode_image(truncated[number % len(truncated)])

    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        done = [pool.submit(read, number) for number in range(8)]
        start.wait()
        for word in words:
            os.write(2, word.encode())
            time.sleep(0.0005)
        for future in done:
            future.result()
    assert not warned
    assert list(warnings.filters) == filters
    assert capfd.readouterr() == ("", "".join(words))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_fifo, "found that it is a pipe (FIFO)"),
        (_socket, "found that it is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "found that it is a character device"),
        (lambda path: path.symlink_to("nowhere"), "found no such file"),
        (lambda path: path.symlink_to(path), "found it unreadable"),
    ],
)
def test_what_is_no_file_is_not_opened(
    make: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "a.jpg")
    assert str(caught.value).startswith(f"{tmp_path}/a.jpg: {said}")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="found that it has more than 536870912 bytes"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("limit", "read"), [("221", True), ("220", False), ("", True)])
def test_the_environment_sets_the_limit(
    limit: str, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIXELS_VARIABLE, limit)
    content = small_images()["png"]  # 17 x 13
    if read:
        assert decode_image(content).size == 3 * 221
    else:
        with pytest.raises(ImageError, match=r"more than 220 pixels.*set PRIMESVT_MAX_PIXELS$"):
            decode_image(content)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e6", "178956971", "9" * 5000, "1\n", "٣"])
def test_a_limit_that_is_none_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIXELS_VARIABLE, text)
    for use in (
        lambda: decode_image(small_images()["png"]),
        lambda: Preprocessing(8, 8, 8, "bilinear", (0.5,), (0.5,)).apply(
            np.zeros((9, 9, 1), np.uint8)
        ),
    ):
        with pytest.raises(ImageError) as caught:
            use()
        assert "expected a whole number of pixels from 1 to 178956970" in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


def test_exif_over_several_segments_still_turns_the_image() -> None:
    """Pillow would join them; the first says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    upright = decode_image(jpeg_with_exif(block.ljust(200_000, b"\0")), upright=True)
    np.testing.assert_array_equal(upright, decode_image(jpeg_with_exif(block), upright=True))


def test_comments_of_a_text_image_are_no_samples() -> None:
    plain = b"P3\n2 1\n255\n10 20 30\n40 50 60\n"
    noted = b"P3 # a\n2 1 # b\r255 10 20 # c d 1 2\n30\n# e\n40 50 60# f"
    np.testing.assert_array_equal(decode_image(noted), decode_image(plain))


def test_narrow_images_are_not_enlarged_without_bound() -> None:
    """A row of 60 million pixels would become 224 rows of 13 thousand million."""
    row = np.broadcast_to(np.uint8(0), (1, 60_000_000, 3))
    steps = Preprocessing(224, 224, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(PreprocessingError, match=f"has at most {MAX_PIXELS} when its shorter side"):
        steps.apply(row)


def test_the_size_of_a_file_is_what_it_holds(tmp_path: Path) -> None:
    """Those in /proc have a size of 0."""
    (tmp_path / "a").write_bytes(bytes(100))
    assert read_regular(tmp_path / "a", most=100) == bytes(100)
    assert read_regular("/proc/self/limits", most=10_000).count(b"\n") > 5
    for path, most in ((tmp_path / "a", 99), (Path("/proc/self/limits"), 99)):
        with pytest.raises(OSError, match="it has more than 99 bytes"):
            read_regular(path, most=most)
