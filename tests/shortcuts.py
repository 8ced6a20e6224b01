"""Fixtures under which a run of the tests is faster and does the same.

What they replace is private to torch and to Python: where it is not there, tests are slower.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _exporter_prepared_once() -> Iterator[None]:
    """torch.onnx reads the operators that there are, and compiles its graphs, for each export.

    No test adds an operator.
    """
    try:
        from torch.export import decomp_utils, exported_program
        from torch.fx._lazy_graph_module import _use_lazy_graph_module
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        operators = functools.cache(exported_program._collect_all_valid_cia_ops)
    except (ImportError, AttributeError):
        yield
        return
    with pytest.MonkeyPatch.context() as patch, _use_lazy_graph_module(True):
        registry = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(registry))
        for module in (decomp_utils, exported_program):
            patch.setattr(module, "_collect_all_valid_cia_ops", operators)
        yield


@pytest.fixture(scope="session", autouse=True)
def _empty_dicts_copied_quickly() -> Iterator[None]:
    """A third of the time of copying a network goes into a dozen empty OrderedDicts a module."""
    ways = getattr(copy, "_deepcopy_dispatch", None)
    usual: Any = getattr(copy, "_reconstruct", None)
    if ways is None or usual is None or OrderedDict in ways:
        yield
        return

    def copied(value: OrderedDict[Any, Any], memo: dict[int, Any]) -> OrderedDict[Any, Any]:
        if value or vars(value):
            return usual(value, memo, *value.__reduce_ex__(4))  # type: ignore[no-any-return]
        return OrderedDict()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ways, OrderedDict, copied)
        yield
