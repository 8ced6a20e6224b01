"""Lists of images that are sent to another process hold their own images alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_images import STEPS, everything, image_files, listed

from primesvt_deploy.data import DataSet, ImageList
from primesvt_deploy.data.decoders import ArrayDecoder, JpegDecoder
from primesvt_deploy.data.images import check_visible
from primesvt_deploy.data.pixel_cache import cached, read_ahead, uncached
from primesvt_deploy.errors import DataError

_ELSEWHERE = (
    "import pickle, sys, numpy as np\n"
    "images = pickle.load(open(sys.argv[1], 'rb'))\n"
    "np.savez(sys.argv[2], inputs=images.inputs(0, len(images)), labels=images.labels)\n"
)


def in_memory(count: int) -> ImageList:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), np.uint8)
    return ImageList(ArrayDecoder(pixels), np.arange(count), np.arange(count) % 5, STEPS)


def as_jpegs(count: int, folder: Path) -> ImageList:
    files = [p.read_bytes() for p in sorted(folder.iterdir())][:count]
    decode = JpegDecoder("made-up", b"".join(files), np.cumsum([0, *map(len, files)]), grey=False)
    return ImageList(decode, np.arange(count), np.arange(count) % 5, STEPS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_files(tmp_path_factory.mktemp("sent") / "photos", 200)


@pytest.fixture(scope="module")
def lists(files: ImageList) -> dict[str, ImageList]:
    kept = cached(files, None)
    read_ahead(kept)
    root = Path(files.decode._root)  # type: ignore[attr-defined]
    return {
        "arrays": in_memory(200),
        "files": files,
        "jpegs": as_jpegs(200, root),
        "kept": kept,
    }


@pytest.mark.parametrize("kind", ["arrays", "files", "jpegs", "kept"])
def test_the_size_of_a_part_is_that_of_its_own_images(
    lists: dict[str, ImageList], kind: str
) -> None:
    images = lists[kind].shuffled(1)
    few, many = (len(pickle.dumps(images.select(np.arange(n)))) for n in (20, 180))
    least = len(pickle.dumps(images.select(np.arange(1))))
    assert (many - least) / (few - least) == pytest.approx(179 / 19, rel=0.15)


@pytest.mark.parametrize("kind", ["arrays", "files", "jpegs", "kept"])
@settings(max_examples=25, deadline=None)
@given(chosen=st.lists(st.integers(0, 199), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_a_part_that_was_sent_is_the_same(
    lists: dict[str, ImageList], kind: str, chosen: list[int], seed: int
) -> None:
    part = lists[kind].shuffled(seed).select(np.asarray(chosen))
    for each in (part, part.as_pixels()):
        again = pickle.loads(pickle.dumps(each))
        assert np.array_equal(everything(again), everything(each))
        assert np.array_equal(again.labels, each.labels)
        twice = pickle.loads(pickle.dumps(again.select(np.arange(len(chosen))[::-1])))
        assert np.array_equal(everything(twice), everything(each)[::-1])


def test_a_fresh_process_elsewhere_has_the_same_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_files(tmp_path / "photos", 30)
    monkeypatch.chdir(tmp_path)
    relative = listed(Path("photos"), tuple(sorted(os.listdir("photos"))))
    part = relative.shuffled(3).first(9)
    Path("part").write_bytes(pickle.dumps(part))
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "part"), str(tmp_path / "found.npz")],
        cwd=tmp_path / "elsewhere",
        check=True,
    )
    with np.load("found.npz") as found:
        assert np.array_equal(found["inputs"], everything(part))
        assert np.array_equal(found["labels"], part.labels)


def test_splits_are_sent_each_with_its_own(tiny_data: DataSet) -> None:
    again: DataSet = pickle.loads(pickle.dumps(tiny_data))
    assert again.digest == tiny_data.digest
    for name in ("search", "held_out"):
        one, other = getattr(tiny_data, name), getattr(again, name)
        assert np.array_equal(everything(one), everything(other))
        assert len(pickle.dumps(one)) < 0.6 * len(pickle.dumps(tiny_data))


def test_files_that_this_machine_has_are_visible(files: ImageList) -> None:
    check_visible(files)
    check_visible(pickle.loads(pickle.dumps(files.first(3))))
    check_visible(in_memory(3))


@pytest.mark.parametrize("change", ["gone", "longer"])
def test_the_first_file_that_a_machine_lacks_is_named(tmp_path: Path, change: str) -> None:
    images = image_files(tmp_path / "photos", 6)
    file = tmp_path / "photos" / "00004.png"
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"more")
    check_visible(images.first(4))
    with pytest.raises(DataError) as caught:
        check_visible(images.select(np.array([2, 4, 5])))
    assert str(caught.value).startswith(f"{file} ")
    assert "machine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_decoded_to_be_sent(tmp_path: Path) -> None:
    images = image_files(tmp_path, 40)
    kept = cached(images, None)
    kept.inputs(0, 10)
    assert len(pickle.dumps(kept)) < 1.2 * len(pickle.dumps(images))
    assert np.array_equal(everything(pickle.loads(pickle.dumps(kept))), everything(images))


def test_rows_of_a_file_are_sent_by_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primesvt_deploy.data.pixel_cache.available_memory", lambda: 0)
    images = image_files(tmp_path / "photos", 40).shuffled(5)
    kept = cached(images, tmp_path / "kept.pixels")
    read_ahead(kept)
    part = kept.select(np.arange(30, 10, -3))
    sent = pickle.dumps(part)
    again = pickle.loads(sent)
    check_visible(again)
    assert np.array_equal(everything(again), everything(part))
    assert len(sent) < len(pickle.dumps(uncached(part))) + 1500

    (tmp_path / "kept.pixels").unlink()
    again = pickle.loads(sent)
    for use in (check_visible, everything):
        with pytest.raises(DataError, match=r"kept\.pixels, which keeps .* not on this machine"):
            use(again)
    assert np.array_equal(everything(uncached(again)), everything(part))
