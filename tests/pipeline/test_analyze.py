"""Layers of a model as `analyze` finds them, and how that is shown."""

from __future__ import annotations

import pytest
from html_fragments import read_fragment

from primesvt_deploy import SearchSettings, analyze
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT

pytestmark = pytest.mark.slow


def test_an_analysis_shows_the_bytes_of_every_layer(model: SViT, data: DataSet) -> None:
    found = analyze(model, SearchSettings(rates=(0.5,), robustness_images=50), data=data)
    assert sum(found.layer_bytes.values()) == found.cost.shipped_bytes
    title, *rows = repr(found).splitlines()
    assert title == f"Analysis of {model.name}"
    assert [row[2:16].strip() for row in rows] == [
        "size", "work", "search top-1", "robustness", "firing", "energy",
    ]  # fmt: skip
    assert f" {found.cost.parameters:,} parameters, " in rows[0]
    fragment = read_fragment(found._repr_html_())
    assert {"weights as float32, MB", *found.layer_bytes} <= set(fragment.drawn)
    assert len(repr(found.curves[0])) < 200 and len(repr(found.energy)) < 80
