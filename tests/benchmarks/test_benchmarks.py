"""Benchmark scripts run for minutes; that they fit the package is seen by importing them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    parts = ("cards", "common", "wide", "frontier_parts", "frontier_plot", "frontier_series")
    parts += ("frontier_tables", "precision_tables", "native_agreement", "native_operations")
    parts += ("native_tables", "latency_tables", "answers_table", "first_minutes_table")
    parts += ("estimates_table", "scaling_table")
    parts += ("sequential_table", "sequential_simulation")
    assert path.stem in parts or callable(module.main)


@pytest.mark.slow
def test_networks_of_published_widths_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    spec = importlib.util.spec_from_file_location("wide_networks", SCRIPTS[0].parent / "wide.py")
    assert spec is not None and spec.loader is not None
    wide = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wide)
    for name in wide.MODELS:
        found = wide.network(name)
        assert found.config.num_classes == 1000
        assert sum(p.numel() for p in found.module.parameters()) > 5e6, name
