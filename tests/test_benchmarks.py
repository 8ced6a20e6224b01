"""Benchmark scripts run for minutes; that they fit the package is seen by importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parts = ("common", "wide", "frontier_plot", "frontier_tables")
    assert path.stem in parts or callable(module.main)


def test_the_benchmark_of_published_widths_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from primesvt_deploy.families import family_named

    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    spec = importlib.util.spec_from_file_location(
        "benchmark_families", SCRIPTS[0].parent / "families.py"
    )
    assert spec is not None and spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(families)
    for name, arguments in families.MODELS.values():
        family_named(name).config_type.from_dict({**families.COMMON, **arguments})
