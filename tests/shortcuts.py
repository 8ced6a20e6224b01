"""Fixtures under which a run of the tests is faster and does the same.

What they replace is private to torch and to Python: where it is not there, tests are slower.
"""

from __future__ import annotations

import copy
import functools
import typing
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

_BRIEF = {"seconds": 0.02, "rounds": 5, "warmup_seconds": 0.0}
_PICKLING = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
_KEPT = frozenset((bool, int, float, str, type(None)))
_DICTS = (dict, OrderedDict)


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
def _rules_tried_where_they_may_match() -> Iterator[None]:
    """onnxscript tries each of its rules on each node, and says in words why it does not match.

    Most rules end in an operator of another name, which is the first thing that is looked at.
    """
    try:
        from onnxscript.rewriter._matcher import SimplePatternMatcher
        from onnxscript.rewriter._rewrite_rule import RewriteRule

        usual: Any = RewriteRule.try_rewrite
    except (ImportError, AttributeError):
        yield
        return

    def tried(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        simple = type(self._matcher) is SimplePatternMatcher and options.get("tracer") is None
        if simple and not self._matcher.pattern.output_nodes[0].op.matches(node.op_type):
            return None
        return usual(self, model, graph, node, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewriteRule, "try_rewrite", tried)
        yield


@pytest.fixture(scope="session", autouse=True)
def _protocols_listed_once() -> Iterator[None]:
    """Python 3.11 lists a protocol, of which onnx_ir has many, anew for each `isinstance`."""
    listed: Any = getattr(typing, "_get_protocol_attrs", None)
    if listed is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typing, "_get_protocol_attrs", functools.cache(listed))
        yield


@pytest.fixture(scope="session", autouse=True)
def _modules_copied_quickly() -> Iterator[None]:
    """Most of the time of copying a network goes into what is not to be copied.

    Each module has a score of switches, names and empty dicts, each of which is a call. A class
    that says itself how it is copied or pickled is copied as it says.
    """
    usual: Any = getattr(copy, "_reconstruct", None)
    if usual is None or hasattr(nn.Module, "__deepcopy__"):
        yield
        return
    own = [(name, getattr(nn.Module, name)) for name in _PICKLING if hasattr(nn.Module, name)]

    def copied(self: nn.Module, memo: dict[int, Any]) -> Any:
        cls = type(self)
        if any(getattr(cls, name) is not usually for name, usually in own):
            return usual(self, memo, *self.__reduce_ex__(4))
        memo[id(self)] = new = cls.__new__(cls)
        into = new.__dict__
        for name, value in self.__dict__.items():
            kind = type(value)
            if kind in _KEPT:
                into[name] = value
            elif kind in _DICTS and not value and not getattr(value, "__dict__", None):
                into[name] = kind()
            else:
                into[name] = copy.deepcopy(value, memo)
        return new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__deepcopy__", copied, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _reports_gathered_quickly() -> Iterator[None]:
    """A build measures the memory of two models in processes of their own; small ones are alike.

    What it gathers of spikes it gathers on fewer images.
    """
    from primesvt_deploy.pipeline.report_content import gather, memory

    usual, measured = memory.measure_memory, []

    def once(*arguments: Any, **options: Any) -> Any:
        if not measured:
            measured.append(usual(*arguments, **options))
        return measured[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "measure_memory", once)
        patch.setattr(gather, "_FIRING_IMAGES", 8)
        yield


@pytest.fixture(scope="session", autouse=True)
def _builds_timed_briefly() -> Iterator[None]:
    """A build times its models for seconds; no test asks how fast they are."""
    from primesvt_deploy.measure import artifact_latency

    with pytest.MonkeyPatch.context() as patch:
        brief = replace(artifact_latency.TIMING, **_BRIEF)  # type: ignore[arg-type]
        patch.setattr(artifact_latency, "TIMING", brief)
        yield


@pytest.fixture(scope="session", autouse=True)
def _pace_measured_briefly() -> Iterator[None]:
    """A build measures for two seconds where its progress bar begins; tests draw no bar."""
    from primesvt_deploy.pipeline import context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "QUICK_S", 0.05)
        yield
