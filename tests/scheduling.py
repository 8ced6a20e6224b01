"""Pytest hooks that keep a run of the tests short: the order of modules, and which tests are slow.

A file's tests run on one worker (`--dist loadfile`), so that a module's fixtures are made once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path

import pytest

LONGEST_FIRST = (
    "model/test_reference",
    "benchmarks/test_bodies",
    "families/test_artifacts",
    "families/test_integers",
    "training/test_every_convolution",
    "tools/test_train_reference",
    "devices/emulated_arm/test_native",
    "edge/native/test_safety",
    "families/test_pixels",
    "test_types",
    "pipeline/test_build_families",
    "pipeline/test_variant",
    "pipeline/test_runtime",
    "pipeline/test_build",
    "test_docs",
    "cli/test_commands",
    "edge/native/test_mcu",
    "devices/ssh/test_native",
    "devices/ssh/test_run_on_host",
    "pruning/recovery/test_recovery",
    "families/test_families",
    "model/test_adopt",
    "devices/emulated_arm/test_check",
    "pruning/recovery/test_classifier",
    "pruning/policies/test_policies",
    "pipeline/test_frontier",
    "training/test_finetune",
    "packaging/test_wheel",
    "lowering/native/test_weighted",
    "quantization/test_own_integers",
    "cli/test_bench",
    "lowering/test_fold_constants",
)
"""Modules that are begun first: one of them alone at the end would leave a worker idle.

`test_build_families` exports networks that `test_integers` has traced by then.
"""

SLOW_SECONDS = 1.0
"""CPU time of a test, its fixtures included, from which it is told that it is not marked `slow`."""

_CPU = "cpu_seconds"
_STARTED = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    line = f"slow: takes over {SLOW_SECONDS:g} s of CPU time; left out of `make check`"
    config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first."""
    root = Path(__file__).parent
    places = {root / f"{name}.py": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Collect garbage less often, and leave what was imported out of it.

    Tracing makes so many objects that the default thresholds take a tenth of a run's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def pytest_sessionfinish() -> None:
    """What is left ends with the process: pytest would look through all of it five times."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when a test begins."""
    item.stash[_STARTED] = _cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Note what a test took, in its report."""
    try:
        yield
    finally:
        item.user_properties.append((_CPU, _cpu_seconds() - item.stash[_STARTED]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List slow tests that are not marked so."""
    found = {}
    for report in terminalreporter.getreports("passed"):
        seconds = dict(report.user_properties).get(_CPU, 0.0)
        if seconds > SLOW_SECONDS and "slow" not in report.keywords:
            found[report.nodeid] = seconds
    if found:
        terminalreporter.section(f"over {SLOW_SECONDS:g} s of CPU time and not marked slow")
        for name, seconds in sorted(found.items(), key=lambda entry: -entry[1]):
            terminalreporter.line(f"{seconds:6.1f} s {name}")


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
