"""The engine that alters JSON leaves no kind and no place out."""

from __future__ import annotations

import json

from hostile_json import VALUES, mutations

CONTENT = {"a": [1, 2.5, {"b": "x"}], "n": None}
PLACES = ("the content", "['a']", "['a'][0]", "['a'][1]", "['a'][2]", "['a'][2]['b']", "['n']")


def test_every_value_is_altered_in_every_way() -> None:
    found = dict(mutations(CONTENT, seed=1, count=10**6))
    every = {f"{place} is {kind}" for place in PLACES for kind in VALUES}
    assert every - set(found) == {"['n'] is null"}  # as it was
    for place in ("['a']", "['n']", "['a'][2]['b']"):
        assert {f"{place} is dropped", f"{place} is there twice"} <= set(found)
        assert f"the name {place} is a lone surrogate" in found
    assert {"truncated", "UTF-16", "UTF-8 with BOM", "a bit flipped", "empty"} <= set(found)
    assert json.dumps(CONTENT).encode() not in found.values()


def test_one_place_is_altered_at_a_time() -> None:
    found = dict(mutations(CONTENT, seed=1, count=10**6))
    assert json.loads(found["['a'][0] is null"]) == {**CONTENT, "a": [None, *CONTENT["a"][1:]]}  # type: ignore[index]
    assert json.loads(found["['n'] is dropped"]) == {"a": CONTENT["a"]}
    assert found["['n'] is there twice"].count(b'"n"') == 2


def test_a_seed_gives_an_order() -> None:
    first = list(mutations(CONTENT, seed=1, count=50))
    assert first == list(mutations(CONTENT, seed=1, count=50))
    assert len(first) == 50
    assert first != list(mutations(CONTENT, seed=2, count=50))
