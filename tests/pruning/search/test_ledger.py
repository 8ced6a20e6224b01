from __future__ import annotations

import errno
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_json import mutations
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.errors import PruningError
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search import ledger as module
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger


def candidate(plan: str, n: int = 8) -> Candidate:
    return Candidate(
        plan=plan, limit=n, step="policy", group="g", rate=0.5, kept=3, correct=4, lost=2,
        gained=1, n=n, seconds=0.1,
    )  # fmt: skip


def test_candidates_are_found_again_in_a_new_process(tmp_path: Path) -> None:
    path = tmp_path / "work" / "ledger.jsonl"
    first = Ledger(path)
    first.append(candidate("a"))
    first.append(candidate("b"))
    again = Ledger(path)
    assert len(again) == 2
    assert again.find("a", 8) == candidate("a")
    assert again.find("a", 9) is None
    assert again.find("c", 8) is None


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def line(**changes: Any) -> bytes:
    """A line of a ledger."""
    return json.dumps(asdict(candidate("a")) | changes).encode() + b"\n"


def test_a_line_that_a_kill_cut_off_is_written_anew_on_a_line_of_its_own(tmp_path: Path) -> None:
    first, last = line(), line(plan="b")
    for end in range(len(last)):
        path = written(tmp_path / "ledger.jsonl", first, last[:end])
        whole = ["a", "b"] if end == len(last) - 1 else ["a"]  # its newline alone is missing
        ledger = Ledger(path)
        assert [entry.plan for entry in ledger] == whole
        assert ledger.dropped == (0 < end < len(last) - 1)
        assert path.read_bytes() == first + last[:end], "another process may be writing it"
        ledger.append(candidate("c"))
        assert [entry.plan for entry in Ledger(path)] == [*whole, "c"]


NO_CANDIDATES = {
    "null": b"null\n",
    "a list": b"[]\n",
    "a number": b"7\n",
    "binary": bytes(range(128, 256)) + b"\n",
    "null bytes": b"\0" * 500 + b"\n",
    "two at once": line()[:-1] + line(),
    "10**400 images": line(n=10**400),
    "a number that is none": line(seconds=math.nan),
    "an endless time": line(seconds=1e999),
    "a divergence far off": line(divergence=1e300),
    "a renamed key": line().replace(b'"correct"', b'"right"'),
    "5000 levels": line().replace(b'"g"', b"[" * 5000 + b"]" * 5000),
    "5000 levels of something new": line(new=0).replace(
        b'"new": 0', b'"new": ' + b"[" * 5000 + b"]" * 5000
    ),
    "a lone surrogate": line(step="a\ud800"),
    "no UTF-8": line(step="Q").replace(b"Q", b"\xff"),
    "a line break in a name": line(group="a\nb"),
    "a long name": line(step="x" * 100_000),
    "a long line": line(channels={"g": "00" * 3_000_000}),
    "a rate above 1": line(rate=1.5),
    "a text for a number": line(n="8"),
    "true for a number": line(kept=True),
    "fewer than none": line(kept=-1),
    "more right than seen": line(correct=9),
    "more lost and gained than seen": line(lost=5, gained=4),
    "more seen than there are": line(n=9),
    "decided before all are seen, and all seen": line(decision="within", allowed=3.0),
    "decided under no limit": line(n=6, decision="beyond"),
    "a limit, and nothing decided": line(n=6, allowed=3.0),
    "another decision": line(n=6, decision="perhaps", allowed=3.0),
    "half a byte": line(channels={"g": "f"}),
    "no bytes": line(channels={"g": ""}),
    "no hexadecimal digits": line(channels={"g": "zz"}),
    "blanks between bytes": line(channels={"g": "ff ff"}),
    "flags of more images": line(flags="f000"),
    "flags of other images": line(flags="ff"),
    "flags that are no text": line(flags=None),
}
"""Lines that no search wrote, by what they are."""


def test_lines_that_are_no_candidate_are_counted_and_stay(tmp_path: Path) -> None:
    for name, bad in NO_CANDIDATES.items():
        path = written(tmp_path / "ledger.jsonl", line(), bad, b"\n", line(plan="b"))
        ledger = Ledger(path)
        assert [entry.plan for entry in ledger] == ["a", "b"], name
        assert ledger.dropped == 1, name
        ledger.append(candidate("c"))
        assert path.read_bytes().startswith(line() + bad), name
        assert [entry.plan for entry in Ledger(path)] == ["a", "b", "c"], name


def test_whatever_a_line_holds_no_arithmetic_fails(tmp_path: Path) -> None:
    content = asdict(candidate("a")) | {"channels": {"g": "e0", "h": "ff"}, "flags": "f0"}
    kept = 0
    for description, altered in mutations(content, seed=1, count=350):
        flat = altered.replace(b"\n", b" ")
        ledger = Ledger(written(tmp_path / "ledger.jsonl", line(plan="first"), flat, b"\n", line()))
        entries = list(ledger)
        assert {entries[0].plan, entries[-1].plan} == {"first", "a"}, description
        for entry in entries:
            kept += entry.plan != "first"
            assert 0 <= entry.accuracy.percent <= 100, description
            assert all(map(math.isfinite, (*entry.drop.interval(), entry.seconds))), description
            assert len(ledger.hits(entry.plan, entry.limit)) in (0, entry.n), description
            assert entry.within(3.0) in (True, False, None), description
            assert Plan.from_packed(entry.channels).digest, description
    assert kept > 350, "some altered lines are candidates"


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.lists(st.binary(max_size=40) | st.just(line()) | st.just(line(plan="b")), max_size=8))
def test_no_candidate_is_lost_among_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    content = b"\n".join(pieces)
    path = written(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    whole = {one for one in content.splitlines(keepends=False)}
    ledger = Ledger(path)
    assert {e.plan for e in ledger} == {
        plan for plan, text in (("a", line()), ("b", line(plan="b"))) if text[:-1] in whole
    }
    ledger.append(candidate("c"))
    assert {e.plan for e in Ledger(path)} == {e.plan for e in ledger}
    assert path.read_bytes().startswith(content)


def test_fields_that_are_new_or_were_not_there_yet_are_no_matter(tmp_path: Path) -> None:
    entry = {
        name: value
        for name, value in asdict(candidate("a")).items()
        if name not in ("group", "rate", "kept", "divergence", "channels", "flags")
    }
    old = json.dumps(entry | {"weights": "e" * 64, "more": {"of": [1]}}).encode()
    (found,) = Ledger(written(tmp_path / "ledger.jsonl", old, b"\n"))
    assert (found.group, found.channels, found.divergence) == ("", {}, None)


@pytest.mark.parametrize("kind", ["pipe", "directory", "socket"])
def test_a_ledger_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ledger.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(PruningError, match=rf"cannot be read \(it is a {kind}") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_a_ledger_larger_than_any_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(PruningError, match="bytes: no search wrote it; move it away"):
        Ledger(path)
    monkeypatch.setattr(module, "_MOST_LINES", 3)
    with pytest.raises(PruningError, match="lines: no search wrote it; move it away"):
        Ledger(written(path, *[line()] * 4))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", line())
    script = (
        "import resource, signal, sys, pathlib\n"
        "from primesvt_deploy.pruning.search.ledger import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "(first,) = ledger\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try:\n    ledger.append(first)\n"
        "except OSError as error:\n    sys.exit(error.errno)\n"
    )
    command = [sys.executable, "-c", script, str(path), str(len(line()) + 100)]
    assert subprocess.run(command, check=False).returncode == errno.EFBIG
    assert path.read_bytes() == line()


def test_flags_survive_packing() -> None:
    hits = np.random.default_rng(0).random(77) < 0.5
    entry = Candidate(**{**vars(candidate("d", n=77)), "flags": Candidate.packed(hits)})
    np.testing.assert_array_equal(entry.hits(), hits)


def test_a_ledger_without_a_file_keeps_candidates_in_memory() -> None:
    ledger = Ledger()
    ledger.append(candidate("a"))
    assert ledger.find("a", 8) is not None
