"""Samples from the cache are those that are decoded, bit for bit, whatever happened to its file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_children import ended
from listed_images import FRAMES, GREY, STEPS, Counting, everything, image_files, listed
from recorded_progress import Recorded

from primesvt_deploy.data import ImageList
from primesvt_deploy.data.decoders import ArrayDecoder
from primesvt_deploy.data.pixel_cache import PixelCache, cached, read_ahead, unread
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import OutputError

COUNT = 30
_STEP = st.one_of(
    st.tuples(st.just("first"), st.integers(1, COUNT)),
    st.tuples(st.just("shuffled"), st.integers(0, 9)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 99), min_size=1, max_size=20)),
)


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every cache be a file."""
    monkeypatch.setattr("primesvt_deploy.data.pixel_cache.available_memory", lambda: 0)


def chained(images: ImageList, steps: list[tuple[str, object]]) -> ImageList:
    for name, value in steps:
        if name == "select":
            images = images.select(np.asarray(value) % len(images))
        else:
            images = getattr(images, name)(value)
    return images


def counted(images: ImageList) -> tuple[ImageList, list[int]]:
    """The same images, and the list of what is decoded of them."""
    decode = Counting(images.decode)  # type: ignore[arg-type]
    return replace(images, decode=decode), decode.seen


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageList]:
    root = tmp_path_factory.mktemp("kept")
    kinds = {"RGB": STEPS, "grey": GREY, "frames": FRAMES}
    return {kind: image_files(root / kind, COUNT, steps) for kind, steps in kinds.items()}


@pytest.mark.parametrize("kind", ["RGB", "grey", "frames"])
@pytest.mark.parametrize("in_file", [False, True])
@settings(max_examples=12, deadline=None)
@given(steps=st.lists(_STEP, max_size=4), kept=st.integers(1, COUNT), cut=st.integers(0, COUNT))
def test_samples_are_those_that_are_decoded(
    lists: dict[str, ImageList],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    in_file: bool,
    steps: list[tuple[str, object]],
    kept: int,
    cut: int,
) -> None:
    images = lists[kind]
    with pytest.MonkeyPatch.context() as patch:
        if in_file:
            no_memory(patch)
        path = tmp_path_factory.mktemp("cache") / "kept.pixels"
        cache = PixelCache([images.shuffled(4).first(kept)], path)
        plain, found = chained(images, steps), chained(cache.of(images), steps)
        cut = cut % (len(plain) + 1)
        for start, stop in ((cut, len(plain)), (0, cut), (0, len(plain))):
            if start < stop:
                expected = plain.inputs(start, stop)
                got = found.inputs(start, stop)
                assert got.dtype == expected.dtype
                assert np.array_equal(got.view(np.uint8), expected.view(np.uint8))
                assert got.flags.c_contiguous and expected.flags.c_contiguous
                assert np.array_equal(found.samples(start, stop), plain.samples(start, stop))
        if kind != "frames":
            pixels = found.for_model(np.uint8)
            assert np.array_equal(everything(pixels), everything(plain.as_pixels()))
        assert np.array_equal(found.pixels(0), plain.pixels(0))
        assert in_file or not path.exists()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    more=st.integers(0, 6),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 99),
)
def test_sizes_of_all_kinds(
    lists: dict[str, ImageList],
    size: tuple[int, int],
    more: int,
    interpolation: str,
    seed: int,
) -> None:
    resize = max(size) + more
    steps = Preprocessing(*size, resize, interpolation, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    plain = replace(lists["RGB"], preprocessing=steps).shuffled(seed).first(5)
    assert np.array_equal(everything(cached(plain, None)), everything(plain))


def test_each_is_decoded_once_of_lists_that_share_some(lists: dict[str, ImageList]) -> None:
    images, seen = counted(lists["RGB"])
    searched, calibration = images.shuffled(1).first(12), images.shuffled(2).first(12)
    cache = PixelCache([searched, calibration], None)
    for _ in range(3):
        for each in (searched, calibration):
            everything(cache.of(each))
            everything(cache.of(each).as_pixels())
    assert sorted(seen) == sorted({*searched.numbers, *calibration.numbers})


def test_no_more_is_decoded_than_is_asked_for(lists: dict[str, ImageList]) -> None:
    images, seen = counted(lists["RGB"])
    kept = cached(images.shuffled(1), None)
    assert seen == []
    kept.inputs(3, 7)
    assert seen == kept.numbers[3:7].tolist()


def test_another_resize_is_not_answered_from_the_cache(lists: dict[str, ImageList]) -> None:
    kept = cached(lists["RGB"], None)
    everything(kept)
    other = replace(STEPS, resize=13)
    expected = replace(lists["RGB"], preprocessing=other)
    assert np.array_equal(everything(replace(kept, preprocessing=other)), everything(expected))


def test_arrays_in_memory_and_decoders_of_a_user_are_left_alone() -> None:
    pixels = np.zeros((4, 6, 8, 3), np.uint8)
    for decode in (ArrayDecoder(pixels), pixels.__getitem__):
        images = ImageList(decode, np.arange(4), np.arange(4), STEPS)
        assert cached(images, None) is images
        read_ahead(images)


def test_what_is_cached_is_not_cached_again(lists: dict[str, ImageList]) -> None:
    kept = cached(lists["RGB"], None)
    assert cached(kept, None) is kept


@pytest.mark.parametrize("in_file", [False, True])
def test_frames_of_several_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    if in_file:
        no_memory(monkeypatch)
    names = []
    for dtype in ("u1", "i8", ">f4", "f8", "?", "f2"):
        values = np.random.default_rng(0).random(FRAMES.shape) * 2.0**60
        values = values if np.dtype(dtype).kind in "if" and dtype != "f2" else values / 2.0**54
        np.save(tmp_path / f"{dtype}.npy", values.astype(dtype))
        names.append(f"{dtype}.npy")
    plain = listed(tmp_path, tuple(names), FRAMES)
    for order in (np.arange(6), np.arange(6)[::-1], np.array([4, 2, 0])):
        chosen = plain.select(order)
        kept = cached(chosen, tmp_path / "kept.pixels")
        for _ in range(2):
            assert np.array_equal(everything(kept), everything(chosen))
        again = cached(chosen, tmp_path / "kept.pixels")
        assert np.array_equal(everything(again), everything(chosen))


class TestFile:
    """Where memory does not suffice."""

    @pytest.fixture(autouse=True)
    def _file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        no_memory(monkeypatch)
        self.path = tmp_path / "made" / "kept.pixels"

    def check(self, images: ImageList, expected_to_decode: int) -> None:
        """The file gives the right samples, so many of which had to be decoded."""
        plain, seen = counted(images)
        assert np.array_equal(everything(cached(plain, self.path)), everything(images))
        assert len(seen) == expected_to_decode

    def test_its_size_is_told_before_it_is_written(self, lists: dict[str, ImageList]) -> None:
        there: list[bool] = []
        progress = Recorded()
        tell = progress.message
        progress.message = lambda *lines: (there.append(self.path.exists()), tell(*lines))[1]  # type: ignore[method-assign]
        kept = cached(lists["RGB"], self.path, progress)
        assert not there
        everything(kept)
        assert there == [False]
        assert progress.messages == [
            f"the decoded images take 0.0 MB: kept in {self.path} while this runs"
        ]

    def test_a_later_call_finds_it(self, lists: dict[str, ImageList]) -> None:
        self.check(lists["RGB"], COUNT)
        self.check(lists["RGB"], 0)

    def test_a_part_is_found_as_well(self, lists: dict[str, ImageList]) -> None:
        cached(lists["RGB"], self.path).inputs(5, 12)
        self.check(lists["RGB"], COUNT - 7)
        self.check(lists["RGB"], 0)

    @pytest.mark.parametrize("change", ["order", "resize", "content", "fewer"])
    def test_that_of_other_images_is_made_anew(
        self, lists: dict[str, ImageList], tmp_path: Path, change: str
    ) -> None:
        images = image_files(tmp_path / "own", COUNT)
        self.check(images, COUNT)
        other = {
            "order": lambda: images.shuffled(1),
            "fewer": lambda: images.first(9),
            "resize": lambda: replace(images, preprocessing=replace(STEPS, resize=12)),
            "content": lambda: image_files(tmp_path / "own", COUNT, seed=1),
        }[change]()
        self.check(other, len(other))

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: os.truncate(path, path.stat().st_size - 1),
            lambda path: os.truncate(path, 100),
            lambda path: os.truncate(path, 0),
            lambda path: path.write_bytes(b"\0" * path.stat().st_size),
            lambda path: path.write_bytes(b"my thesis"),
            lambda path: (path.unlink(), path.symlink_to(path.with_name("elsewhere"))),
            lambda path: (path.unlink(), os.mkfifo(path)),
        ],
        ids=["truncated", "header", "empty", "zeros", "foreign", "link", "pipe"],
    )
    def test_one_that_is_not_whole_is_made_anew(
        self, lists: dict[str, ImageList], damage: Callable[[Path], object]
    ) -> None:
        self.check(lists["RGB"], COUNT)
        damage(self.path)
        self.check(lists["RGB"], COUNT)
        assert self.path.is_file() and not self.path.is_symlink()

    @pytest.mark.parametrize("row", [0, 7, COUNT - 1])
    def test_a_damaged_sample_alone_is_decoded_again(
        self, lists: dict[str, ImageList], row: int
    ) -> None:
        self.check(lists["RGB"], COUNT)
        with self.path.open("r+b") as file:
            file.seek(row * 6 * 8 * 3 - COUNT * 6 * 8 * 3, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        self.check(lists["RGB"], 1)

    def test_a_directory_in_its_place(self, lists: dict[str, ImageList]) -> None:
        self.path.mkdir(parents=True)
        with pytest.raises(
            OutputError, match=r"cannot keep the decoded images in .*kept"
        ) as caught:
            everything(cached(lists["RGB"], self.path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("room", [0, 100, 4096, 5000])
    def test_a_file_that_may_not_be_so_large(self, lists: dict[str, ImageList], room: int) -> None:
        def with_little_room() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            with pytest.raises(OutputError, match=r"File too large.*make room there") as caught:
                everything(cached(lists["RGB"], self.path))
            assert "\n" not in str(caught.value)

        assert ended(with_little_room, self.path.parent) == "ended"
        assert not self.path.exists()
        self.check(lists["RGB"], COUNT)

    def test_a_disk_without_room(
        self, lists: dict[str, ImageList], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = os.statvfs(self.path.parent.parent)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5000}))
        assert usage.f_bavail
        with pytest.raises(OutputError) as caught:
            everything(cached(lists["RGB"], self.path))
        assert str(caught.value) == (
            f"the decoded images take 0.0 MB, and {self.path.parent} has 0.0 MB free: make room "
            "there, or take fewer images"
        )
        assert not self.path.exists()

    def test_one_without_a_place_leaves_nothing(
        self, lists: dict[str, ImageList], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        kept = cached(lists["RGB"], None)
        assert np.array_equal(everything(kept), everything(lists["RGB"]))
        assert len(list((tmp_path / "temporary").rglob("*.pixels"))) == 1
        del kept
        assert not list((tmp_path / "temporary").iterdir())


_FILLING = """
import sys
from pathlib import Path
from listed_images import listed
from primesvt_deploy.data import pixel_cache
pixel_cache.available_memory = lambda: 0
root = Path(sys.argv[1])
images = listed(root, tuple(sorted(p.name for p in root.iterdir())))
kept = pixel_cache.cached(images, Path(sys.argv[2]))
for index in range(len(images)):
    kept.inputs(index, index + 1)
    print(index, flush=True)
"""


@pytest.mark.parametrize("number", [1, 40, 150])
def test_what_a_killed_process_has_written_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    no_memory(monkeypatch)
    images, path = image_files(tmp_path / "photos", 300), tmp_path / "kept.pixels"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", _FILLING, str(tmp_path / "photos"), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    while int(child.stdout.readline()) < number:
        pass
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
    told = 1 + (int(rest[-1]) if rest else number)
    plain, seen = counted(images)
    assert np.array_equal(everything(cached(plain, path)), everything(images))
    assert told <= 300 - len(seen) <= told + 1  # one may be there and not be told any more


def test_a_sample_that_was_half_written_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_memory(monkeypatch)
    images, path = image_files(tmp_path / "photos", 5), tmp_path / "kept.pixels"
    write, calls = os.pwrite, []

    def half(file: int, content: memoryview, place: int) -> int:
        calls.append(place)
        if len(calls) == 5:  # header, sample, checksum, sample, checksum
            os._exit(137)
        return write(file, content[: len(content) // 2] if len(calls) == 4 else content, place)

    def killed() -> None:
        monkeypatch.setattr(os, "pwrite", half)
        everything(cached(images, path))

    assert ended(killed, tmp_path) == "killed"
    plain, seen = counted(images)
    assert np.array_equal(everything(cached(plain, path)), everything(images))
    assert seen == [1, 2, 3, 4]


def test_reading_ahead_is_a_stage_where_it_takes_a_while(
    lists: dict[str, ImageList], tmp_path: Path
) -> None:
    progress = Recorded()
    images = image_files(tmp_path, 130)
    kept = cached(images, None)
    kept.inputs(0, 1)
    read_ahead(kept, progress)
    read_ahead(kept, progress)
    read_ahead(cached(lists["RGB"], None), progress)
    (stage,) = progress.stages
    assert stage.name == "reading images"
    assert stage.is_done
    assert stage.last == (129, 129, "images")


@pytest.mark.parametrize("in_file", [False, True])
def test_what_is_to_be_decoded_yet_is_counted(
    lists: dict[str, ImageList], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    if in_file:
        no_memory(monkeypatch)
    plain = lists["RGB"]
    assert unread(plain) == COUNT
    images = cached(plain, tmp_path / "kept.pixels")
    assert unread(images) == COUNT and not (tmp_path / "kept.pixels").exists()
    everything(images.first(20))
    assert unread(images) == 10 and unread(images.first(20)) == 0
    other = cached(plain, tmp_path / "kept.pixels")
    assert unread(other) == (10 if in_file else COUNT)
    pixels = np.zeros((3, 9, 9, 3), np.uint8)
    decoded = ImageList(ArrayDecoder(pixels), np.arange(3), np.arange(3), STEPS)
    assert unread(decoded) == 0
