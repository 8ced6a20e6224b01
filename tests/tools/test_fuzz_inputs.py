"""A few hundred altered files of every kind, by a seed, and all that fuzzing ever found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from fuzz_inputs.engines import ENGINES
from fuzz_inputs.outcomes import Found, judge, judge_many
from fuzz_inputs.targets import Target, Wrong, make_targets

from primesvt_deploy.errors import DeployError

SEEDS = Path(__file__).parents[1] / "fuzz_seeds"
CASES = 100
_COSTLY = 6


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    torch.set_num_threads(1)
    return {target.name: target for target in make_targets(tmp_path_factory.mktemp("fuzz"))}


def slug(name: str) -> str:
    """Name of a target's folder of seeds."""
    return re.sub(r"\W+", "-", name)


def test_whole_files_are_taken(targets: dict[str, Target]) -> None:
    """Else nothing behind the first check would ever be reached."""
    for target in targets.values():
        if not target.costly:
            for content in target.seeds:
                target.use(content)


@pytest.mark.slow
def test_altered_files_are_refused_in_one_line_or_taken_rightly(
    targets: dict[str, Target],
) -> None:
    for target in targets.values():
        count = _COSTLY if target.costly else CASES
        found = judge_many(target, Random(0), count)
        assert not found, f"{target.name}: {found[0].kind}: {found[0].said}"


@pytest.mark.slow
def test_what_fuzzing_found_stays_mended(targets: dict[str, Target]) -> None:
    names = {slug(name): name for name in targets}
    files = sorted(path for path in SEEDS.rglob("*") if path.is_file())
    assert files
    for path in files:
        found = judge(targets[names[path.parent.name]], path.read_bytes())
        assert found is None, f"{path.name}: {found.kind}: {found.said}"


@pytest.mark.parametrize("engine", ["seeded", "hypothesis"])
def test_an_engine_finds_what_is_there_to_find(engine: str) -> None:
    def use(content: bytes) -> None:
        if len(content) < 4:
            raise IndexError(3)

    told: list[tuple[str, int, Sequence[Found]]] = []
    target = Target("made up", (b"x" * 8,), use)
    ENGINES[engine]([target], 0.5, 1, lambda *case: told.append(case))
    found = [case for _, _, cases in told for case in cases]
    assert found and all(len(case.content) < 4 for case in found)
    assert {name for name, _, _ in told} == {"made up"} and told[0][1] == 100


def refuse(content: bytes) -> None:
    raise DeployError("one line: found, expected")


def refuse_in_two_lines(content: bytes) -> None:
    raise DeployError("two\nlines")


def take_wrongly(content: bytes) -> None:
    raise Wrong("another was taken")


def crash(content: bytes) -> None:
    raise KeyError("images")


@pytest.mark.parametrize(
    ("use", "kind"),
    [(refuse, None), (len, None), (refuse_in_two_lines, "crash"), (take_wrongly, "wrong"),
     (crash, "crash")],
)  # fmt: skip
def test_a_case_is_judged(use: object, kind: str | None) -> None:
    target = Target("made up", (b"x",), use)  # type: ignore[arg-type]
    found = judge(target, b"content")
    assert (found and found.kind) == kind
    assert found is None or found.content == b"content"
