"""What a run of the tests loads where: the process that only hands tests out needs no torch."""

from __future__ import annotations

import os

import pytest

# Threads that wait for one another sleep: tests of two of them leave the core to the worker beside.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

pytest_plugins = ("scheduling",)

_WHERE_TESTS_RUN = ("compiler_cache", "shortcuts", "small_models")
"""Modules of fixtures."""
pytest.register_assert_rewrite(*_WHERE_TESTS_RUN)  # a folder's conftest.py may import them first


def pytest_sessionstart(session: pytest.Session) -> None:
    """Load the fixtures, but where pytest-xdist only hands tests out."""
    plugins = session.config.pluginmanager
    if not plugins.hasplugin("dsession"):
        for name in _WHERE_TESTS_RUN:
            plugins.import_plugin(name)
