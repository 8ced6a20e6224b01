"""What lies beside the reference models is what was measured of them."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from primesvt_deploy.model.reference_models import model_names, models_root
from primesvt_deploy.model.stored_frontier import FILE, stored_frontier

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stored_frontiers.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stored_frontiers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", model_names())
def test_the_file_is_that_of_the_results(name: str, script: ModuleType) -> None:
    path = models_root() / name / FILE
    assert path.read_text() == script.stored(name), "run python benchmarks/stored_frontiers.py"


@pytest.mark.parametrize("name", model_names())
def test_it_is_found_by_the_weights(name: str) -> None:
    weights = (models_root() / name / "weights.safetensors").read_bytes()
    found = stored_frontier(hashlib.sha256(weights).hexdigest())
    assert found is not None and found.policy == "greedy"
    sizes = [point.weight_bytes for point in found.points]
    assert sizes == sorted(sizes, reverse=True)
    assert all(point.low <= point.points <= point.high for point in found.points)
    assert stored_frontier(hashlib.sha256(weights[:-1]).hexdigest()) is None
