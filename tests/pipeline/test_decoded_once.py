"""A build, frontier, analysis and pruning decode each image once, also where memory is short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from recorded_progress import Recorded
from small_models import LABELS

from primesvt_deploy import BuildSettings, SearchSettings, analyze, build, prune
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.decoders import FileDecoder
from primesvt_deploy.errors import OutputError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline import build as building
from primesvt_deploy.pipeline.frontier import frontier

pytestmark = pytest.mark.slow

SEARCH = SearchSettings(max_drop=100.0, policy="uniform", recover=("refit", "norms"))
SETTINGS = BuildSettings(saving=30.0, search=SEARCH, threads=1)
BY_SIZE = BuildSettings(saving=30.0, search=SearchSettings(max_drop=None), threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of random images of 17 x 19 pixels."""
    root, random = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name in LABELS:
        (root / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 256, (17, 19, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def photo_data(model: SViT, photos: Path) -> DataSet:
    return open_data(model, photos)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each image is decoded."""
    counts: Counter[int] = Counter()
    decode = FileDecoder.__call__

    def counting(self: FileDecoder, number: int) -> npt.NDArray[np.uint8]:
        counts[number] += 1
        return decode(self, number)

    monkeypatch.setattr(FileDecoder, "__call__", counting)
    return counts


@pytest.fixture
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primesvt_deploy.data.pixel_cache.available_memory", lambda: 0)


def in_files(progress: Recorded) -> list[Path]:
    """Files that were told of."""
    told = [text for text in progress.messages if text.startswith("the decoded images take ")]
    return [Path(text.partition(": kept in ")[2].removesuffix(" while this runs")) for text in told]


@pytest.mark.parametrize("settings", [SETTINGS, BY_SIZE], ids=["search", "by size"])
def test_a_build_decodes_what_it_uses_and_once(
    model: SViT,
    photo_data: DataSet,
    seen: Counter[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: BuildSettings,
) -> None:
    build(model, tmp_path / "once", settings, data=photo_data)
    once = dict(seen)
    assert set(once.values()) == {1}
    seen.clear()
    monkeypatch.setattr(building, "decoded_once", lambda data, *_, **__: data)
    build(model, tmp_path / "again", settings, data=photo_data)
    assert set(seen) == set(once)
    plans = [(tmp_path / name / "plan.json").read_text() for name in ("once", "again")]
    assert plans[0] == plans[1]


@pytest.mark.usefixtures("_no_memory")
def test_files_of_a_build_are_found_by_the_next_and_leave_with_its_work(
    model: SViT,
    photo_data: DataSet,
    seen: Counter[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, told = tmp_path / "out", Recorded()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "verify_staged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(model, output, SETTINGS, data=photo_data, progress=told)
    work = tmp_path / "out.work"
    assert in_files(told) == [work / "decoded" / "search.pixels"]
    assert set(seen) == set(photo_data.search.numbers.tolist())
    seen.clear()
    told = Recorded()
    build(model, output, SETTINGS, data=photo_data, progress=told)
    assert in_files(told) == [work / "decoded" / "held-out.pixels"]
    assert seen == dict.fromkeys(photo_data.held_out.numbers.tolist(), 1)
    assert not work.exists()


@pytest.mark.usefixtures("_no_memory")
def test_a_disk_without_room_ends_a_build_before_any_work(
    model: SViT,
    photo_data: DataSet,
    seen: Counter[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    with pytest.raises(OutputError, match=r"decoded images take 0\.1 MB, .* make room") as caught:
        build(model, tmp_path / "out", SETTINGS, data=photo_data)
    assert "\n" not in str(caught.value)
    assert not seen
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_memory")
def test_a_frontier_keeps_them_while_it_is_made(
    model: SViT, photo_data: DataSet, seen: Counter[int], tmp_path: Path
) -> None:
    told = Recorded()
    search = SearchSettings(max_drop=None, policy="uniform", recover=("norms",))
    found = frontier(
        model,
        tmp_path / "f",
        search,
        data=photo_data,
        savings=(20.0,),
        held_out_images=50,
        progress=told,
    )
    assert found["points"][0]["held_out"]["n"] == 50
    places = [tmp_path / "f" / "decoded" / f"{name}.pixels" for name in ("search", "held-out")]
    assert in_files(told) == places
    assert set(seen.values()) == {1}
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"frontier.json", "ledger.jsonl"}


@pytest.mark.usefixtures("_no_memory")
def test_analysis_and_pruning_keep_them_in_a_temporary_place(
    model: SViT,
    photo_data: DataSet,
    seen: Counter[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for work in (
        lambda told: analyze(model, SEARCH, data=photo_data, progress=told),
        lambda told: prune(model, SETTINGS, data=photo_data, progress=told),
    ):
        told = Recorded()
        result = work(told)
        (file,) = in_files(told)
        assert file.is_relative_to(tmp_path)
        assert set(seen.values()) == {1}
        del result
        seen.clear()
        assert not list(tmp_path.rglob("*.pixels"))
