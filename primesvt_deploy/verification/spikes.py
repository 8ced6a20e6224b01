"""Count the spikes that differ between a model and its artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import nn

from primesvt_deploy.compute.device import CPU, copied_to, device_of
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.metadata import FLOAT_LAYERS_KEY, NEURONS_KEY, read_metadata
from primesvt_deploy.lowering.trace import OUTPUT
from primesvt_deploy.model.svit import SViT

__all__ = [
    "FlipCounter",
    "SpikeComparison",
    "can_be_shared",
    "neuron_layers",
    "observed",
    "spike_value",
]

_NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


def observed(
    model: SViT, batch: torch.Tensor, given: Mapping[str, torch.Tensor] = _NOTHING
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Run a model and keep the spikes of every neuron layer.

    Args:
        model: a SViT, lowered or not; it runs where its module is.
        batch: samples `[N, ...]`, as data sets give them.
        given: outputs that replace those of the layers of these names.

    Returns:
        Logits `[N, K]`, and spikes `[T*N, ...]` by layer, on the CPU.
    """
    spikes: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda neuron, _inputs, fired: spikes.update({name: neuron.folded(fired).cpu()})

    def replaced(_layer: nn.Module, _inputs: Any, output: torch.Tensor, by: torch.Tensor) -> Any:
        return by.to(output.device).reshape(output.shape)

    handles = [
        neuron.register_forward_hook(keep(name)) for name, neuron in neuron_layers(model).items()
    ]
    for name, tensor in given.items():
        layer = model.module.get_submodule(name)
        handles.append(layer.register_forward_hook(partial(replaced, by=tensor)))
    try:
        return model.logits(batch.to(device_of(model.module))).cpu(), spikes
    finally:
        for handle in handles:
            handle.remove()


def neuron_layers(model: SViT) -> dict[str, Neuron | UnrolledNeuron]:
    """Neurons of a model that are used, by the name of their layer in the artifact."""
    return {
        name.removesuffix(".neuron"): neuron
        for name, neuron in model.module.named_modules()
        if isinstance(neuron, Neuron | UnrolledNeuron) and neuron.used
    }


def spike_value(neuron: Neuron | UnrolledNeuron) -> float:
    """Output of a neuron for a count of one."""
    constants = neuron.parameters_ if isinstance(neuron, Neuron) else neuron.constants
    return constants.spike_value


class SpikeComparison(ABC):
    """Runs a model beside its artifact and counts the spikes that differ.

    Args:
        model: the model, or the quantized one that an integer artifact stands for.
        device: that the model runs on.

    Attributes:
        is_integer: whether the artifact has integer arithmetic.
        compared: neuron outputs compared so far.
    """

    is_integer: bool

    def __init__(self, model: SViT, device: torch.device = CPU) -> None:
        self._model = model.with_module(copied_to(model.module, device))
        self._neurons = neuron_layers(self._model)
        self._counts: dict[str, list[npt.NDArray[np.int64]]] = {n: [] for n in self._neurons}
        self.compared = 0

    @abstractmethod
    def _observe(
        self, batch: npt.NDArray[Any]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, torch.Tensor]]:
        """Run the artifact on a batch.

        Returns:
            Spikes of each layer, `[T*N, ...]` as in torch; and by layer the outputs that the model
            is to take over.
        """

    def compare(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compare the spikes of a batch; the model's logits `[N, K]`."""
        found, given = self._observe(batch)
        logits, expected = observed(self._model, torch.from_numpy(batch), given)
        for name, spikes in found.items():
            self.compared += spikes.size
            steps = (self._model.timesteps, len(batch), -1)
            differing = expected[name].contiguous().numpy().reshape(steps) != spikes.reshape(steps)
            self._counts[name].append(differing.sum(axis=2))
        result: npt.NDArray[np.float32] = logits.numpy()
        return result

    def per_image(self) -> npt.NDArray[np.int64]:
        """Flips of each image over all layers and timesteps."""
        total: npt.NDArray[np.int64] = sum(
            (np.concatenate(c, axis=1).sum(axis=0) for c in self._counts.values()),
            start=np.zeros(1, dtype=np.int64),
        )
        return total

    def by_layer(self, chosen: npt.NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
        """Flips of each layer at each timestep, over the chosen images."""
        images = chosen.astype(bool)
        return {
            name: tuple(int(n) for n in np.concatenate(c, axis=1)[:, images].sum(axis=1))
            for name, c in self._counts.items()
        }


class FlipCounter(SpikeComparison):
    """Compares a model with its instrumented ONNX artifact.

    Args:
        model: the model, or the quantized one that an integer artifact stands for.
        path: the artifact.
        threads: of ONNX Runtime.
        share_float_layers: have the model take over the outputs of the artifact's float layers,
            so that only what is behind them is compared.
        device: that the model runs on.

    Attributes:
        float_layers: names of the float layers that can be shared; none in a float32 artifact.

    Raises:
        VerificationError: the artifact is not this model's, or its metadata is damaged.
    """

    def __init__(
        self,
        model: SViT,
        path: Path,
        threads: int,
        *,
        share_float_layers: bool = False,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(model, device)
        graph = onnx.load(path)
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
        self.is_integer = FLOAT_LAYERS_KEY in metadata
        self.float_layers = tuple(
            name
            for name in read_metadata(metadata, FLOAT_LAYERS_KEY)
            if can_be_shared(name, model.module)
        )
        self._layouts = {
            name: entry["layout"]
            for entry in read_metadata(metadata, NEURONS_KEY)
            for name in entry["names"]
        }
        produced = {output for node in graph.graph.node for output in node.output}
        self._tensors = {
            name: _spike_tensors(name, model.timesteps, produced, path) for name in self._neurons
        }
        self._shared = (
            {name: _layer_tensor(name, graph.graph, path) for name in self.float_layers}
            if share_float_layers
            else {}
        )
        extra = [*(t for group in self._tensors.values() for t in group), *self._shared.values()]
        for tensor in extra:
            graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _observe(
        self, batch: npt.NDArray[Any]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, torch.Tensor]]:
        found = self._run(batch)
        given = {layer: torch.from_numpy(found[name]) for layer, name in self._shared.items()}
        spikes = {
            name: self._values(name, np.concatenate([found[tensor] for tensor in tensors]))
            for name, tensors in self._tensors.items()
        }
        return spikes, given

    def _run(self, batch: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Run the graph; its instrumented tensors by name."""
        names = [name for group in self._tensors.values() for name in group]
        names += self._shared.values()
        inputs = {self._session.get_inputs()[0].name: _time_first(batch)}
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def _values(self, layer: str, spikes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Convert spikes of the graph to those of the torch module: float32 values, `NCHW`."""
        values = spikes.astype(np.float32)
        if spikes.dtype == np.uint8:
            values *= np.float32(spike_value(self._neurons[layer]))
        if self._layouts.get(layer) == "NHWC" and values.ndim == 4:
            values = values.transpose(0, 3, 1, 2)
        return values

    def artifact_logits(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits `[N, K]` of a batch, from the instrumented graph."""
        inputs = {self._session.get_inputs()[0].name: _time_first(batch)}
        logits: npt.NDArray[np.float32] = self._session.run([OUTPUT], inputs)[0]
        return logits


def _time_first(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(batch.swapaxes(0, 1)) if batch.ndim == 5 else batch


def _spike_tensors(layer: str, timesteps: int, produced: set[str], path: Path) -> tuple[str, ...]:
    names = tuple(f"{layer}.spikes.t{t}" for t in range(timesteps))
    if produced.issuperset(names):
        return names
    raise VerificationError(f"{path} has no spikes of layer {layer}: it is not this model's")


def can_be_shared(layer: str, network: SpikingNetwork) -> bool:
    """Whether a layer is a module whose output is one tensor, in front of a neuron."""
    modules = dict(network.named_modules())
    weighted = isinstance(modules.get(layer), nn.Conv1d | nn.Conv2d | nn.Linear)
    return weighted and layer not in network.classifiers


def _layer_tensor(layer: str, graph: onnx.GraphProto, path: Path) -> str:
    """Name of the tensor of a layer's output: behind its bias, if that is added apart."""
    produced = {output for node in graph.node for output in node.output}
    for name in (layer, f"{layer}.conv", f"{layer}.gemm", f"{layer}.add", f"{layer}.matmul"):
        if name in produced:
            return name
    raise VerificationError(f"{path} has no output of layer {layer}: it is not this model's")
