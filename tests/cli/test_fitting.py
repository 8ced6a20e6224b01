"""Tables on narrow terminals."""

from __future__ import annotations

import io
import os
from unittest import mock

import pytest
from edge.bench.test_result_schema import measured
from rich.console import Console

from primesvt_deploy.cli.tables.bench import print_result
from primesvt_deploy.cli.tables.fitting import Column, print_fitting, print_side_by_side

NAMES = Column("bundle", ["a/path/to/a/bundle\nonnx, latency", "b"])


def shown(width: int, *columns: Column) -> str:
    """A table on a terminal of a width."""
    out = io.StringIO()
    print_fitting(Console(file=out, width=width), "ms a run", NAMES, columns)
    return out.getvalue()


def test_the_highest_rank_is_left_out_first_and_named() -> None:
    columns = [
        Column("median", ["1153.25", "7.00"]),
        Column("p95", ["1160.18", "8.00"], 1),
        Column("histogram", ["█▂▂▂▂▂▂▂▂▂▂▂", "█▂▂▂▂▂▂▂▂▂▂▂"], 2),
    ]
    assert "█▂▂▂▂▂▂▂▂▂▂▂" in shown(80, *columns) and "without" not in shown(80, *columns)
    for width, out in ((50, "without: histogram"), (30, "without: p95, histogram")):
        text = shown(width, *columns)
        assert "1153.25" in text and ("1160.18" in text) == (width == 50)
        assert out in " ".join(text.split()) and "…" not in text
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("width", "tables"), [(100, 1), (60, 2), (42, 3)])
def test_more_subjects_than_fit_get_a_table_each(width: int, tables: int) -> None:
    out = io.StringIO()
    quantities = Column("", ["time, ms", "  first run of the model"])
    subjects = [Column(f"bundle {i}\nonnx", ["", str(10 + i)]) for i in range(3)]
    subjects = [Column(s.heading, [*s.cells[:1], f"{s.cells[1]}.123456"]) for s in subjects]
    print_side_by_side(Console(file=out, width=width), "Loading", quantities, subjects)
    text = out.getvalue()
    assert text.count("Loading") == tables
    assert [f"1{i}.123456" in text for i in range(3)] == [True] * 3
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_number_of_a_benchmark_is_cut(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    content = measured()
    for row in content["variants"]:
        row["latency_ms"] |= {"min": 153.25, "median": 1154.5, "p95": 1178.25, "p99": 1300.5}
        row["bundle"] = "a/long/path/of/a/bundle"
        row["histogram"]["counts"] = list(range(1, 13))
    with mock.patch.dict(os.environ, {"COLUMNS": str(width)}):
        print_result(content)
    text = capsys.readouterr().out
    assert "1154.50" in text and "200.0" in text and "anonymous" in text
    assert "…" not in text and ("▁" in text or "least to p99" in " ".join(text.split()))
    assert max(map(len, text.splitlines())) <= width
