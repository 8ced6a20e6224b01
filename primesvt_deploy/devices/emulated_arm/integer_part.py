"""The exact part of an integer artifact: all that comes after its float layers, or its pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.runtime.session import OnnxModel

if TYPE_CHECKING:
    import onnx

__all__ = ["IntegerPart", "split_integer_part"]

_TENSORS = ("{}", "{}.conv", "{}.gemm", "{}.add", "{}.matmul")
_SPIKES = re.compile(r".+\.spikes\.t\d+")


@dataclass(frozen=True)
class IntegerPart:
    """A model of integers alone, and its inputs.

    Args:
        model: path of the model, from the float layers' outputs, or from pixels, to every spike
            tensor after them.
        inputs: path of an `.npz` with those inputs, as this machine computes them.
        images: images that the inputs are of.
        spikes: names of the spike tensors.
    """

    model: Path
    inputs: Path
    images: int
    spikes: tuple[str, ...]


def split_integer_part(
    artifact: Path, images: npt.NDArray[Any], folder: Path
) -> IntegerPart | None:
    """Split an artifact after its float layers; None: all its layers are float layers.

    Spikes that depend on the images by another path than through such a layer are left out.

    Args:
        artifact: the `.onnx` file.
        images: samples to run, `[n, C, H, W]` or `[n, T, C, H, W]`; uint8 where it takes pixels,
            behind which all is exact up to a float layer.
        folder: an existing folder, to which the two files are written.

    Raises:
        ModuleNotFoundError: there is no onnx here.
        BundleError: ONNX Runtime refuses the artifact.
        VerificationError: the artifact's metadata is damaged.
    """
    import onnx

    from primesvt_deploy.lowering.metadata import FLOAT_LAYERS_KEY, read_metadata

    whole = onnx.load(artifact)
    properties = {entry.key: entry.value for entry in whole.metadata_props}
    if FLOAT_LAYERS_KEY not in properties:
        return None
    produced = {output for node in whole.graph.node for output in node.output}
    floats = _outputs_of(read_metadata(properties, FLOAT_LAYERS_KEY), produced)
    if images.dtype == np.uint8:
        floats.add(whole.graph.input[0].name)
    spikes = _spikes_after(whole.graph, floats)
    if not spikes:
        return None
    kept = _needed(whole.graph, spikes, floats)
    used = {name for node in kept for name in node.input}
    currents = _run(whole, sorted(floats & used), images, folder / "whole.onnx")
    np.savez(folder / "currents.npz", **currents)  # type: ignore[arg-type]
    _reduce(whole.graph, kept, used)
    whole.graph.input.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in currents.items()
    )
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in spikes)
    onnx.save(whole, folder / "integer.onnx")
    return IntegerPart(
        model=folder / "integer.onnx",
        inputs=folder / "currents.npz",
        images=len(images),
        spikes=spikes,
    )


def _outputs_of(layers: Iterable[str], produced: set[str]) -> set[str]:
    """Names of the layers' output tensors: after the bias, if that is added apart."""
    named = ([form.format(layer) for form in _TENSORS] for layer in layers)
    found = (next(filter(produced.__contains__, names), None) for names in named)
    return {name for name in found if name}


def _spikes_after(graph: onnx.GraphProto, floats: set[str]) -> tuple[str, ...]:
    """Spike tensors that depend on the graph's inputs through `floats` tensors alone."""
    constants = {entry.name for entry in graph.initializer}
    direct = {value.name for value in graph.input} - constants - floats
    spikes: list[str] = []
    for node in graph.node:
        if direct & set(node.input):
            direct.update(set(node.output) - floats)
        else:
            spikes += filter(_SPIKES.fullmatch, node.output)
    return tuple(spikes)


def _needed(
    graph: onnx.GraphProto, outputs: Iterable[str], given: set[str]
) -> list[onnx.NodeProto]:
    """Nodes, in order, that compute `outputs` from `given` tensors."""
    wanted = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if wanted & (set(node.output) - given):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _run(
    whole: onnx.ModelProto, wanted: list[str], images: npt.NDArray[Any], path: Path
) -> dict[str, npt.NDArray[Any]]:
    """Run a model on images; the values of the tensors `wanted`, by name; its input may be one."""
    import onnx

    given = whole.graph.input[0].name
    names = [name for name in wanted if name != given]
    probe = onnx.ModelProto()
    probe.CopyFrom(whole)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    onnx.save(probe, path)
    batch = np.ascontiguousarray(images.swapaxes(0, 1)) if images.ndim == 5 else images
    values = OnnxModel(path).session.run(names, {given: batch}) if names else []
    found = dict(zip(names, values, strict=True))
    return {name: batch if name == given else found[name] for name in wanted}


def _reduce(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], used: set[str]) -> None:
    """Reduce a graph to `nodes` and the initializers that they use."""
    initializers = [entry for entry in graph.initializer if entry.name in used]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
