"""Metadata of lowered graphs, as others may have altered them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hostile_json import mutations

from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering.metadata import (
    FLOAT_LAYERS_KEY,
    FOLDED_KEY,
    NEURONS_KEY,
    read_metadata,
)

NEURONS = [{"names": ["stem.0", "head"], "layout": "NHWC", "tau": 2.0}]


@pytest.mark.parametrize(
    ("key", "content"),
    [(NEURONS_KEY, NEURONS), (FLOAT_LAYERS_KEY, ["stem.0"]), (FOLDED_KEY, ["a", "b"])],
)
def test_altered_metadata_are_read_or_refused_in_one_line(key: str, content: list[Any]) -> None:
    assert read_metadata({key: json.dumps(content)}, key) == content
    assert read_metadata({}, key) == []
    for described, text in mutations(content, seed=0, count=10**6):
        try:
            found = read_metadata({key: text.decode(errors="replace")}, key)
        except VerificationError as error:
            said = str(error)
            assert said.isprintable() and len(said) < 1000, (described, said[:300])
        else:
            names = [name for x in found for name in (x["names"] if key == NEURONS_KEY else [x])]
            assert all(isinstance(name, str) for name in names), described
