"""Values say what they are in a few lines, and draw themselves in a notebook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from html_fragments import read_fragment
from small_models import make_model

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.predict import Prediction
from primesvt_deploy.model.source import Source
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.settings import BuildSettings, FinetuneSettings, SearchSettings
from primesvt_deploy.summary import (
    Summary,
    change,
    megabytes,
    points_changed,
    points_lost,
    shortened,
)
from primesvt_deploy.summary.charts import accuracy_by_size, bars, kept_channels
from primesvt_deploy.training.finetune import Finetuned

HOSTILE = "<img src=x onerror=alert(1)> & 'quoted'"


def test_a_summary_is_the_same_as_text_and_as_html() -> None:
    summary = Summary("a title", (("size", "3 MB"), ("held-out top-1", HOSTILE)))
    assert summary.text().splitlines() == [
        "a title",
        "  size            3 MB",
        f"  held-out top-1  {HOSTILE}",
    ]
    fragment = read_fragment(summary.html())
    assert fragment.names == ["size", "held-out top-1"]
    assert "".join(fragment.values) == f"3 MB{HOSTILE}"
    assert "img" not in fragment.tags


def test_a_gain_is_neither_a_negative_loss_nor_without_a_sign() -> None:
    said = [points_lost(drop) for drop in (0.3, -0.3, -0.001)]
    assert said == ["0.30 points lost", "0.30 points gained", "0.00 points lost"]
    assert points_changed(-0.3, (-1.0, 0.4)) == "+0.30 [-0.40, +1.00]"
    assert [points_changed(drop) for drop in (1.25, 0.0)] == ["-1.25", "+0.00"]


def test_words() -> None:
    assert [megabytes(count) for count in (5_821_064, 63_900, 540)] == [
        "5.82 MB", "0.0639 MB", "0.00054 MB",
    ]  # fmt: skip
    assert (change("a", "b"), change("a", "a")) == ("a to b", "a")
    assert shortened(["a", "b", "c"]) == "a, b, c"
    assert shortened(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert len(shortened(["x" * 5000])) < 200


def test_a_model_says_what_it_is(tiny: SViT) -> None:
    noted = replace(
        tiny,
        source=Source("w.pth", "ab" * 32, 7),
        recorded_accuracy=95.5,
        data="cifar10",
        notes=(HOSTILE, "y" * 1000),
    )
    title, *rows = repr(noted).splitlines()
    assert title == "SViT tiny"
    assert [row.split()[0] for row in rows] == [
        "family", "input", "size", "weights", "top-1", "data", "note", "note",
    ]  # fmt: skip
    assert rows[0].endswith("spikformer, T = 3, 5 classes (ant, bee, cat and 2 more)")
    assert rows[1].endswith("images of 3 x 16 x 16")
    count = sum(parameter.numel() for parameter in tiny.module.parameters())
    assert f" {count:,} parameters, " in rows[2]
    assert rows[3].endswith("w.pth, SHA-256 abababababab...")
    assert max(map(len, rows)) < 200
    assert read_fragment(noted._repr_html_()).values[0].startswith("spikformer, T = 3")


def test_a_data_set_counts_its_splits(tiny_data: DataSet) -> None:
    lines = repr(tiny_data).splitlines()
    assert lines[0] == "DataSet data"
    assert [line.split()[0] for line in lines[1:]] == [
        "train", "search", "held-out", "samples", "digest",
    ]  # fmt: skip
    assert lines[1].endswith("none")
    assert lines[2].endswith(f"{len(tiny_data.search)} images of 5 classes")
    assert repr(tiny_data.search) == (
        f"ImageList: {len(tiny_data.search)} images of 5 classes, as samples of 3 x 16 x 16"
    )


def test_settings_show_what_is_not_the_default() -> None:
    assert repr(SearchSettings()) == "SearchSettings()"
    wanted = BuildSettings(
        budget_mb=4.2,
        search=SearchSettings(max_drop=None, policy="greedy"),
        finetune=FinetuneSettings(epochs=3, timesteps=(2, 4)),
    )
    assert repr(wanted) == (
        "BuildSettings(budget_mb=4.2, search=SearchSettings(max_drop=None, policy='greedy'), "
        "finetune=FinetuneSettings(epochs=3, timesteps=(2, 4)))"
    )
    assert eval(repr(wanted)) == wanted


def test_results_of_one_step_are_short() -> None:
    artifact = Artifact(
        path=Path("m.onnx"), bytes=5_000_000, initializer_bytes=4_900_000, layers=(), batch=None
    )
    assert repr(artifact).splitlines()[:2] == [
        "Artifact m.onnx",
        "  size       5.00 MB, weights 4.90 MB",
    ]
    trained = Finetuned(model=make_model(), losses=tuple(map(float, range(9))), images=9, seconds=2)
    assert "9, mean loss of each: ..., 3.0000, 4.0000" in repr(trained)
    found = Prediction("photo.jpg", (("cat", 0.921), ("dog", 0.06)), (1.0, 0.0), 2)
    assert repr(found) == "Prediction(photo.jpg: cat 92.1%, dog 6.0%, T = 2)"
    plan = Plan((("stem", tuple(range(700))),))
    assert repr(plan) == "Plan(channels kept: stem 700)"
    assert repr(Plan()) == "Plan(nothing is removed)"


@pytest.mark.parametrize(
    ("svg", "words"),
    [
        (
            accuracy_by_size(
                [
                    {"name": HOSTILE, "mb": 4.1, "top1": 80.0, "low": 79.0, "high": 81.0},
                    {"name": "dense", "mb": 5.8, "top1": 81.5, "low": 80.4, "high": 82.6},
                ],
                size="file, MB",
                accuracy="top-1, %",
                budget=4.2,
            ),
            {"dense", "file, MB", "top-1, %"},
        ),
        (bars({HOSTILE: 2.0, "head": 1.0}, title="MB"), {"head", "MB"}),
        (
            bars({f"layer {i}": 40.0 - i for i in range(40)}, title="MB"),
            {"layer 0", "layer 29", "10 smaller ones"},
        ),
        (
            kept_channels({HOSTILE: (3, 10), "stem": (4, 4)}),
            {"stem", "kept", "removed", "share of its channels"},
        ),
    ],
)
def test_charts_stand_alone_and_take_the_ink_of_their_page(svg: str, words: set[str]) -> None:
    fragment = read_fragment(svg)
    assert words <= set(fragment.drawn)
    assert "img" not in fragment.tags
    assert 'fill="currentColor"' in svg
    assert 'fill="white"' not in svg and 'fill="black"' not in svg
