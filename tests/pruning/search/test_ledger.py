from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from primesvt_deploy.pruning.search.ledger import Candidate, Ledger


def candidate(plan: str, n: int = 8) -> Candidate:
    return Candidate(
        plan=plan, limit=n, step="policy", group="g", rate=0.5, kept=3, correct=4, lost=2,
        gained=1, n=n, stopped_early=False, seconds=0.1,
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


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_torn_by_a_kill_is_dropped_and_written_anew(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(candidate("a"))
    ledger.append(candidate("b"))
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Ledger(path)
    assert [entry.plan for entry in resumed] == ["a"]
    resumed.append(candidate("b"))
    assert [entry.plan for entry in Ledger(path)] == ["a", "b"]


def test_flags_survive_packing() -> None:
    hits = np.random.default_rng(0).random(77) < 0.5
    entry = Candidate(**{**vars(candidate("d", n=77)), "flags": Candidate.packed(hits)})
    np.testing.assert_array_equal(entry.hits(), hits)


def test_a_ledger_without_a_file_keeps_candidates_in_memory() -> None:
    ledger = Ledger()
    ledger.append(candidate("a"))
    assert ledger.find("a", 8) is not None
