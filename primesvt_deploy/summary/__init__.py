"""Summaries of values: a few lines on a terminal, a table and a chart in a notebook."""

from __future__ import annotations

from primesvt_deploy.summary.summary import Shown, Summary
from primesvt_deploy.summary.words import (
    change,
    megabytes,
    points_changed,
    points_lost,
    shortened,
    top1,
)

__all__ = [
    "Shown",
    "Summary",
    "change",
    "megabytes",
    "points_changed",
    "points_lost",
    "shortened",
    "top1",
]
