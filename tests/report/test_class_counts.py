"""Counts of classes from a confusion matrix."""

from __future__ import annotations

from primesvt_deploy.report.class_counts import count_classes, most_confused
from primesvt_deploy.report.content import ConfusedPair

PAIRS = [
    ConfusedPair(label=0, predicted=0, dense=8, shipped=5),
    ConfusedPair(label=0, predicted=1, dense=2, shipped=4),
    ConfusedPair(label=0, predicted=2, dense=0, shipped=1),
    ConfusedPair(label=1, predicted=1, dense=6, shipped=7),
    ConfusedPair(label=1, predicted=2, dense=4, shipped=3),
]


def test_a_class_counts_all_its_images() -> None:
    ant, bee = count_classes(PAIRS, ("ant", "bee", "cat"))
    assert (ant.name, ant.n, ant.dense, ant.shipped, ant.change) == ("ant", 10, 8, 5, -0.3)
    assert (bee.name, bee.n, bee.dense, bee.shipped) == ("bee", 10, 6, 7)


def test_the_most_frequent_errors_come_first() -> None:
    found = most_confused(PAIRS, ("ant", "bee", "cat"), 2)
    assert [(pair.label, pair.predicted, pair.shipped) for pair in found] == [
        ("ant", "bee", 4),
        ("bee", "cat", 3),
    ]
