"""A cache of `torch.onnx.export` for tests: networks that differ in weights alone are traced once.

`torch.export` sees weights as shapes and types without values, so that what it captures, and the
translation of that to ONNX, depend on a network's structure alone. The structure's graph is kept,
each network's own weights are put into it, and the optimizer, which does look at values, runs anew.
What the exporter would decompose into other operators is looked for first: where there is nothing,
half of its time is saved, and values get other names.
A module that does not pickle is traced each time; `tests/families/test_artifacts.py` traces one
network of every family without the cache.

Later runs find what earlier ones traced while the exporter's version is the same, and the sources
of what a network can call: those of its classes, and of the packages that lower it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import primesvt_deploy

__all__ = ["cached_traces", "uncached"]

_EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy", "spikingjelly")
_CALLED = ("families", "lowering", "model", "quantization")
"""Packages whose code a network can reach as it runs; they import no others (import-linter)."""

_Export = Callable[..., torch.onnx.ONNXProgram | None]
_USED = True


@contextmanager
def cached_traces(directory: Path) -> Iterator[None]:
    """Has `torch.onnx.export` look in `directory` first; processes may share it."""
    directory.mkdir(parents=True, exist_ok=True)
    export: _Export = torch.onnx.export

    def cached(
        module: nn.Module, args: tuple[torch.Tensor, ...], *file: Any, **options: Any
    ) -> torch.onnx.ONNXProgram | None:
        if file:  # not our lowering, which writes its files itself
            return export(module, args, *file, **options)
        digest = _structure_digest(module, args, options) if _USED else None
        path = directory / str(digest)
        if digest is None or not (path.is_file() or _trace(export, module, args, options, path)):
            return export(module, args, **options)
        path.touch()
        program = torch.onnx.ONNXProgram(_loaded(path.read_bytes(), module), None)
        program.optimize()
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", cached)
        yield


@contextmanager
def uncached() -> Iterator[None]:
    """Traces within are made anew."""
    global _USED
    before, _USED = _USED, False
    try:
        yield
    finally:
        _USED = before


def _trace(
    export: _Export,
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    options: dict[str, Any],
    path: Path,
) -> bool:
    """Write the graph before it is optimized; False where weights are not in it as they are."""
    with _decomposed_if_need_be():
        program = export(module, args, optimize=False, **options)
    assert program is not None
    state = module.state_dict()
    for name, value in program.model.graph.initializers.items():
        if name in state:
            weights = value.const_value.numpy()
            if not np.array_equal(weights, state[name].numpy()):
                return False
            value.const_value = ir.tensor(np.zeros_like(weights), name=name)  # they take no place
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(_dump(program.model))
    os.replace(temporary, path)
    return True


@contextmanager
def _decomposed_if_need_be() -> Iterator[None]:
    """Has torch.onnx leave a graph as it is whose operators are all of ONNX's own table.

    What is replaced is private to torch: where it is not there, traces take longer.
    """
    try:
        from torch.onnx._internal.exporter import _decomp, _fx_passes

        decompose = _fx_passes.decompose_with_registry
        listed = _decomp.get_onnx_implemented_overloads
        tabled = _decomp.create_onnx_friendly_decomposition_table
    except (ImportError, AttributeError):
        yield
        return

    @functools.cache
    def operators(registry: Any) -> tuple[set[Any], set[Any]]:
        known = set(listed(registry))
        return known, set(tabled(known))

    def decomposed(program: torch.export.ExportedProgram, registry: Any) -> Any:
        _write_casts_plainly(program.graph)
        called = {node.target for node in program.graph.nodes if node.op == "call_function"}
        known, table = operators(registry)
        in_place = any(op._schema.is_mutable for op in called if hasattr(op, "_schema"))
        if in_place or called - known or called & table:
            return decompose(program, registry)
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fx_passes, "decompose_with_registry", decomposed)
        yield


def _write_casts_plainly(graph: torch.fx.Graph) -> None:
    """What decomposing makes of `x.to(dtype)`, all that it would change in networks of pixels."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.to.dtype and len(node.args) == 2:
            node.target, node.kwargs = torch.ops.aten._to_copy.default, {"dtype": node.args[1]}
            node.args = node.args[:1]


def _dump(model: ir.Model) -> bytes:
    """The model, and its real attributes in double precision: ONNX has float32 for them."""
    attributes = [
        (place, name, attribute.value)
        for place, node in enumerate(_nodes(model))
        for name, attribute in node.attributes.items()
        if attribute.type is ir.AttributeType.FLOAT and not attribute.is_ref()
    ]
    content = pickle.dumps((ir.to_proto(model).SerializeToString(), attributes))
    return zlib.compress(content, level=1)


def _loaded(content: bytes, module: nn.Module) -> ir.Model:
    """The graph with the weights of `module`."""
    serialized, attributes = pickle.loads(zlib.decompress(content))
    model = ir.from_proto(onnx.ModelProto.FromString(serialized))
    nodes = list(_nodes(model))
    for place, name, value in attributes:
        nodes[place].attributes[name] = ir.AttrFloat32(name, value)
    for name, tensor in module.state_dict().items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(tensor.numpy(), name=name)
    return model


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in (model.graph, *model.functions.values()):
        yield from ir.traversal.RecursiveGraphIterator(graph)


class _StructurePickler(pickle.Pickler):
    """Pickles a module without the values of its parameters and buffers."""

    def __init__(self, file: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(file)
        self._names = names

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        about = (type(value).__name__, str(value.dtype), tuple(value.shape), value.stride())
        name = self._names.get(id(value))
        if name is None:
            name = hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        return (*about, value.requires_grad, name)


def _structure_digest(
    module: nn.Module, args: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> str | None:
    """A digest of all that a trace depends on; None for a module that cannot be pickled."""
    names = {id(tensor): name for name, tensor in module.state_dict(keep_vars=True).items()}
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    content = io.BytesIO()
    try:
        sources = sorted({_source_digest(cls.__module__) for cls in classes} - {""})
        about = (
            [(arg.shape, str(arg.dtype)) for arg in args],
            repr(options),
            torch.is_grad_enabled(),
            str(torch.get_default_dtype()),
            sources,
            _exporter(),
        )
        _StructurePickler(content, names).dump((module, about))
    except (pickle.PicklingError, AttributeError, TypeError, OSError):
        return None
    return hashlib.sha256(content.getvalue()).hexdigest()


@functools.cache
def _file_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@functools.cache
def _exporter() -> list[str]:
    """Versions of what traces, and sources of what a network of ours calls beside its classes."""
    root = Path(primesvt_deploy.__file__).parent
    files = (path for name in _CALLED for path in sorted((root / name).rglob("*.py")))
    return [*map(version, _EXPORTERS), sys.version, *map(_file_digest, map(str, files))]


def _source_digest(module: str) -> str:
    """Of the file: classes of one name in files of two tests are two classes."""
    path = getattr(sys.modules[module], "__file__", None)
    return _file_digest(path) if path else ""
