from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from primesvt_deploy.edge.bench.comparison import compare_results, require_same_machine
from primesvt_deploy.edge.bench.result_schema import SCHEMA
from primesvt_deploy.edge.bench.results import read_results
from primesvt_deploy.errors import MeasurementError

MACHINE = {"cpu": "Cortex-A76", "architecture": "aarch64", "board": "Pi 5", "logical_cores": 4,
           "onnxruntime": "1.32.0", "features": ["asimd"]}  # fmt: skip


def variant(bundle: str, ms: float, *, batch: int = 1, peak: int = 100) -> dict[str, Any]:
    rounds = [[ms * (1 + 0.001 * (i % 3))] * 5 for i in range(20)]
    return {
        "name": f"{bundle}, latency, batch {batch}, 1 thread", "bundle": bundle,
        "profile": "latency", "batch": batch, "threads": 1, "rounds_ms": rounds,
        "latency_ms": {"median": ms, "p95": ms}, "memory": {"steady": {"VmHWM": peak}},
    }  # fmt: skip


def result(*variants: dict[str, Any], **machine: Any) -> dict[str, Any]:
    labels = dict.fromkeys(v["bundle"] for v in variants)
    return {
        "schema": SCHEMA, "machine": {**MACHINE, **machine}, "settings": {}, "notes": [],
        "bundles": [{"label": label} for label in labels], "variants": list(variants),
        "comparisons": [],
    }  # fmt: skip


def test_one_bundle_each_is_compared_whatever_it_is_called() -> None:
    (found,) = compare_results(result(variant("new", 12, peak=80)), result(variant("old", 10)))
    assert found.ratio.time == pytest.approx(1.2, rel=1e-3)
    assert found.peak_ratio == 0.8
    assert found.slower_than(10) and not found.slower_than(30)


def test_several_bundles_are_matched_by_label_and_settings() -> None:
    one = result(variant("a", 10), variant("b", 20), variant("a", 35, batch=4))
    other = result(variant("b", 10), variant("a", 10), variant("c", 1))
    found = {c.one["name"]: c.ratio.time for c in compare_results(one, other)}
    assert found == {
        "a, latency, batch 1, 1 thread": pytest.approx(1.0, rel=1e-2),
        "b, latency, batch 1, 1 thread": pytest.approx(2.0, rel=1e-2),
    }


def test_nothing_in_common_is_said() -> None:
    with pytest.raises(MeasurementError, match="nothing to compare: found a, latency, batch 4"):
        compare_results(result(variant("a", 1, batch=4)), result(variant("a", 1)))


def test_noise_alone_is_not_slower() -> None:
    slow, fast = variant("a", 10), variant("a", 10)
    slow["rounds_ms"] = [[5.0 if i % 2 else 40.0] for i in range(20)]
    (found,) = compare_results(result(slow), result(fast))
    assert found.ratio.time > 1.1
    assert not found.slower_than(10)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"cpu": "Cortex-A72"}, "cpu: Cortex-A76 against Cortex-A72"),
     ({"onnxruntime": "1.20.1"}, "onnxruntime"), ({"logical_cores": 2}, "logical_cores")],
)  # fmt: skip
def test_other_machines_are_refused(change: dict[str, Any], said: str) -> None:
    one, other = result(variant("a", 1)), result(variant("a", 1), **change)
    with pytest.raises(MeasurementError, match=said):
        require_same_machine({"a.json": one, "b.json": other})
    require_same_machine({"a.json": one, "b.json": one})


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(MeasurementError, match="no result file"):
        read_results(path)
    for text, said in (("{", "not a complete JSON"), ("[]", "schema 'list'"), ("{}", "schema None"),
                       (json.dumps({"schema": "primesvt-bench/9"}), "primesvt-bench/9"),
                       (json.dumps({"schema": SCHEMA, "variants": []}), "damaged")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(MeasurementError, match=said):
            read_results(path)
