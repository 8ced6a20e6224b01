"""Traces of small networks, shared by the tests and by the processes that run them.

Tracing takes nearly all of an export's time, and the same networks are traced again and again. A
trace is kept under a digest of everything it is made from: the module with its classes, attributes
and tensors, the example and the options. A module that does not pickle is traced each time.
`tests/families/test_artifacts.py` traces every family without the cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch

__all__ = ["cached_traces", "uncached"]

_UNCACHED = False


class _Digest(pickle.Pickler):
    """Pickles tensors by their content; torch's own way writes addresses."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            content = value.detach().contiguous().numpy().tobytes()
            meta = (str(value.dtype), tuple(value.shape), value.stride(), type(value).__name__)
            return tuple, ((meta, content),)
        return NotImplemented


def _key(module: torch.nn.Module, options: tuple[Any, ...]) -> str | None:
    buffer = io.BytesIO()
    try:
        _Digest(buffer, protocol=5).dump((module, options))
    except Exception:  # lambdas, local classes, hooks
        return None
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _stored(model: ir.Model) -> bytes:
    """A traced graph, and the order of each value's uses: names are taken from the first."""
    places = {node: index for index, node in enumerate(model.graph)}
    values = [
        *model.graph.initializers.values(),
        *(v for node in model.graph for v in node.outputs),
    ]
    uses = {v.name: [(places[u.node], u.idx) for u in v.uses()] for v in values}
    return pickle.dumps((ir.serde.serialize_model(model).SerializeToString(), uses))


def _restored(content: bytes) -> ir.Model:
    proto, uses = pickle.loads(content)
    model = ir.serde.deserialize_model(onnx.load_model_from_string(proto))
    nodes = list(model.graph)
    for order in uses.values():
        if len(order) > 1:
            value = nodes[order[0][0]].inputs[order[0][1]]
            for place, index in order:
                nodes[place].replace_input_with(index, None)
            for place, index in order:
                nodes[place].replace_input_with(index, value)
    return model


@contextmanager
def cached_traces(directory: Path) -> Iterator[None]:
    """Has `torch.onnx.export` look in `directory` first."""
    directory.mkdir(parents=True, exist_ok=True)
    export: Callable[..., Any] = torch.onnx.export

    def cached(module: torch.nn.Module, args: tuple[Any, ...], **options: Any) -> Any:
        shown = [f"{name}={options[name]!r}" for name in sorted(options)]
        key = None if _UNCACHED else _key(module, (args, shown))
        if key is None:
            return export(module, args, **options)
        path = directory / key
        if not path.is_file():
            program = export(module, args, **options)
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(_stored(program.model))
            os.replace(temporary, path)
        return SimpleNamespace(model=_restored(path.read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", cached)
        yield


@contextmanager
def uncached() -> Iterator[None]:
    """Traces within are made anew."""
    global _UNCACHED
    before, _UNCACHED = _UNCACHED, True
    try:
        yield
    finally:
        _UNCACHED = before
