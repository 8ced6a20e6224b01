"""Damaged and hostile torch files: what is loaded is what was saved, or nothing is."""

from __future__ import annotations

import hashlib
import io
import random
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import hostile_checkpoints as made
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint

SLOW = ("20 million", "6 million", "bytes of 1 MB", "a set of a list", "a deep", "a dtype of")
"""Names of bombs that are refused after a second, as they are large."""
SEEDS = st.integers(0, 2**32 - 1)


def state_or_refusal(path: Path) -> dict[str, torch.Tensor] | None:
    """The state_dict of a file; None: it was refused in one line that names it."""
    try:
        return dict(read_checkpoint(path).state)
    except ModelError as error:
        message = str(error)
        assert "\n" not in message
        assert path.name in message
        return None


def bits(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {k: (t.dtype, t.shape, t.contiguous().numpy().tobytes()) for k, t in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


ZIP = made.written("zip")


@settings(derandomize=True, deadline=None, max_examples=250)
@given(seed=SEEDS)
def test_an_altered_zip_is_the_same_or_refused(folder: Path, seed: int) -> None:
    what, content = made.altered(ZIP, random.Random(seed))
    path = folder / "w.pth"
    path.write_bytes(content)
    found = state_or_refusal(path)
    assert found is None or bits(found) == bits(made.small_state()), what


def test_each_byte_of_the_list_of_members_counts_or_does_not_matter(folder: Path) -> None:
    """Of a member that is said to be a folder, torch reads nothing, and takes what memory holds."""
    path = folder / "w.pth"
    with zipfile.ZipFile(io.BytesIO(ZIP)) as archive:
        start = archive.start_dir
    same = 0
    for place in range(start, len(ZIP)):
        path.write_bytes(ZIP[:place] + bytes([ZIP[place] ^ 16]) + ZIP[place + 1 :])
        found = state_or_refusal(path)
        assert found is None or bits(found) == bits(made.small_state()), place - start
        same += found is not None
    assert same < (len(ZIP) - start) / 2, "of times, versions and permissions"


def test_an_altered_byte_of_any_tensor_is_found(folder: Path) -> None:
    path = folder / "w.pth"
    for key, tensor in made.small_state().items():
        place = ZIP.index(tensor.numpy().tobytes())
        path.write_bytes(ZIP[:place] + bytes([ZIP[place] ^ 1]) + ZIP[place + 1 :])
        with pytest.raises(ModelError, match=r"the CRC-32 of its member data/\d is another") as e:
            read_checkpoint(path)
        assert "copy it again" in str(e.value), key


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_altered_files_without_checksums_give_no_other_error(folder: Path, kind: str) -> None:
    whole = made.written(kind)
    path = folder / f"w{made.suffix(kind)}"
    refused = 0

    @settings(derandomize=True, deadline=None, max_examples=250)
    @given(seed=SEEDS)
    def alter(seed: int) -> None:
        nonlocal refused
        path.write_bytes(made.altered(whole, random.Random(seed))[1])
        refused += state_or_refusal(path) is None

    alter()
    assert refused > 100


@settings(derandomize=True, deadline=None, max_examples=250)
@given(seed=SEEDS)
def test_altered_pickles_with_right_checksums_give_no_other_error(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    with zipfile.ZipFile(folder / "whole.pth") as archive:
        members = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    pickled = members["data.pkl"]
    for _ in range(chance.randint(1, 3)):
        pickled = made.altered_pickle(pickled, chance)
    stored = {name: content for name, content in members.items() if name.startswith("data/")}
    (folder / "w.pth").write_bytes(made.zipped(pickled, stored))
    state_or_refusal(folder / "w.pth")


@pytest.fixture(scope="module", autouse=True)
def whole(folder: Path) -> None:
    content = {"model": made.small_state(), "args": {"T": 4, "rate": 0.5}, "best_acc": 0.9}
    (folder / "whole.pth").write_bytes(made.written("zip", content))


def test_whole_files_are_read(folder: Path) -> None:
    for kind in made.KINDS:
        path = folder / f"w{made.suffix(kind)}"
        path.write_bytes(made.written(kind))
        assert bits(dict(read_checkpoint(path).state)) == bits(made.small_state())


def test_each_bomb_is_one_line(folder: Path) -> None:
    for what, path, whole in made.hostile(folder, seed=0, count=0, skip=SLOW):
        found = state_or_refusal(path)
        assert not whole
        # Numbers that are not there are refused by name, once it is known what they are for.
        assert found is None or what == "no numbers in huge rows", what


IN_BOUNDS = """
import resource, sys
from pathlib import Path
import hostile_checkpoints as made
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.checkpoint import read_checkpoint
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
large = ("20 million", "6 million", "bytes of 1", "a set of a list", "a deep", "a dtype of")
for what, ending, content in made.bombs():
    if what.endswith("legacy") and what.startswith(large):
        continue
    file = path / f"w{ending}"
    file.write_bytes(content)
    try:
        read_checkpoint(file)
    except ModelError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held)
"""


@pytest.mark.slow
def test_no_bomb_takes_more_than_half_a_gigabyte(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_BOUNDS, str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2),
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) * 1024 < 2**29


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("name", made.odd_contents())
def test_contents_that_hold_themselves_are_read_or_refused(
    folder: Path, kind: str, name: str
) -> None:
    (folder / "w.pth").write_bytes(made.written(kind, made.odd_contents()[name]))
    found = state_or_refusal(folder / "w.pth")
    assert (found is None) == (name in ("as its own model", "a list in itself"))


@pytest.mark.parametrize("name", made.HARMLESS_PICKLES)
def test_odd_arguments_do_not_harm(folder: Path, name: str) -> None:
    (folder / "w.pth").write_bytes(made.zipped(made.HARMLESS_PICKLES[name]()))
    found = read_checkpoint(folder / "w.pth")
    assert list(found.state) == ["a.weight"]
    assert len(repr(found.arguments)) < 10_000


def test_a_file_without_checksums_is_read_with_its_sha256(folder: Path) -> None:
    path = folder / "w.pth"
    torch.serialization.set_crc32_options(False)
    try:
        path.write_bytes(made.written("zip"))
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(ModelError, match=r"CRC-32 .*pass --sha256 .*set_crc32_options\(False\)"):
        read_checkpoint(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = read_checkpoint(path, sha256=digest)
    assert bits(dict(found.state)) == bits(made.small_state())


def test_a_refused_file_does_not_spoil_the_next(folder: Path) -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[7]]), torch.ones(1), (3,), check_invariants=False
    )
    path = folder / "w.pth"
    for content in ({"model": made.small_state(), "s": sparse}, {"a": sparse, "b": folder.stat()}):
        torch.save(content, path)
        assert state_or_refusal(path) is None
        path.write_bytes(ZIP)
        assert state_or_refusal(path) is not None


def test_many_views_of_one_storage_are_refused(folder: Path) -> None:
    stored = torch.ones(1000, 1000)
    views = {f"layers.{i}.weight": stored for i in range(100)}
    torch.save(views, folder / "w.pth")
    with pytest.raises(ModelError, match=r"have 400000000 bytes, but the file holds 4000000"):
        read_checkpoint(folder / "w.pth")
    torch.save({**dict(list(views.items())[:3])}, folder / "w.pth")
    assert len(read_checkpoint(folder / "w.pth").state) == 3


@pytest.mark.filterwarnings("ignore")
def test_real_files_with_much_beside_the_weights_are_read(folder: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    layer.weight.of_norm = True  # type: ignore[assignment]
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    content = {
        "model": layer.state_dict(keep_vars=True),
        "optimizer": adam.state_dict(),
        "rng": (torch.get_rng_state(), random.Random(0).getstate()),
        "history": {epoch: [epoch / 7, bytes(3), bytearray(3), {1, "a"}] for epoch in range(9)},
        "sizes": {torch.Size([1, 2]): torch.float16, b"x": 1j, None: torch.device("cpu")},
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "sparse": torch.ones(3).to_sparse(),
    }
    unsigned = {"unsigned": torch.ones(3, dtype=torch.uint16)}  # torch reads it in zips alone
    for kind, whole in (("zip", content | unsigned), ("legacy", content)):
        (folder / "w.pth").write_bytes(made.written(kind, whole))
        found = read_checkpoint(folder / "w.pth").state
        assert torch.equal(found["weight"], layer.weight)


def test_a_file_that_is_an_archive_as_well_takes_no_time(tmp_path: Path) -> None:
    """Its header of a tar archive is a pickle's text, which Python's tarfile reads for minutes."""
    header = bytearray(512)
    size = 2**18
    header[:5] = b"X" + (512 + size - 5).to_bytes(4, "little")
    header[124:136] = b"%011o\0" % size
    header[136:148] = b"00000000000\0"
    header[156:157] = b"x"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "w.pth").write_bytes(bytes(header) + b"1" * size + b"." + b"\x80\x02N." * 4)
    begun = time.monotonic()
    assert state_or_refusal(tmp_path / "w.pth") is None
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_view_that_repeats_a_few_numbers_is_read(tmp_path: Path, kind: str) -> None:
    state = {**made.small_state(), "bn.running_mean": torch.zeros(1).expand(7)}
    (tmp_path / "w.pth").write_bytes(made.written(kind, state))
    found = read_checkpoint(tmp_path / "w.pth").state
    assert torch.equal(found["bn.running_mean"], torch.zeros(7))


@pytest.mark.parametrize("protocol", [4, 5])
def test_another_protocol_is_told_from_damage(tmp_path: Path, protocol: int) -> None:
    torch.save(made.small_state(), tmp_path / "w.pth", pickle_protocol=protocol)
    with pytest.raises(ModelError, match=f"is of pickle protocol {protocol}, of which torch reads"):
        read_checkpoint(tmp_path / "w.pth")


def test_long_lists_beside_the_weights_are_read(tmp_path: Path) -> None:
    content = {
        "model": made.small_state(),
        "losses": [0.5] * 300_000,
        "steps": list(range(300_000)),
        "names": {("a", index): "b" for index in range(100)},
    }
    torch.save(content, tmp_path / "w.pth")
    assert len(read_checkpoint(tmp_path / "w.pth").state) == len(made.small_state())
