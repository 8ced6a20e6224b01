"""Spikes of a model and of its artifact side by side, and where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

from primesvt_deploy.errors import VerificationError
from primesvt_deploy.families.neuron import Neuron
from primesvt_deploy.lowering.trace import OUTPUT
from primesvt_deploy.model import SViT

__all__ = ["FlipCounter", "neuron_layers", "observed"]


def observed(model: SViT, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of preprocessed samples, and the spikes `[T*N, ...]` of every neuron layer."""
    spikes: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda neuron, _inputs, fired: spikes.update({name: neuron.folded(fired)})

    handles = [
        neuron.register_forward_hook(keep(name)) for name, neuron in neuron_layers(model).items()
    ]
    try:
        return model.logits(batch), spikes
    finally:
        for handle in handles:
            handle.remove()


def neuron_layers(model: SViT) -> dict[str, Neuron]:
    """Every neuron of the model by the name of its layer in the artifact."""
    return {
        name.removesuffix(".neuron"): neuron
        for name, neuron in model.module.named_modules()
        if isinstance(neuron, Neuron) and neuron.used
    }


class FlipCounter:
    """Runs model and instrumented graph side by side and counts differing spikes."""

    def __init__(self, model: SViT, path: Path, threads: int) -> None:
        self._model = model
        graph = onnx.load(path)
        produced = {output for node in graph.graph.node for output in node.output}
        self._tensors = {name: _spike_tensor(name, produced, path) for name in neuron_layers(model)}
        for tensor in self._tensors.values():
            graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._counts: dict[str, list[npt.NDArray[np.int64]]] = {n: [] for n in self._tensors}
        self.compared = 0

    def compare(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The model's logits of a batch, after its spikes were compared with the graph's."""
        logits, expected = observed(self._model, torch.from_numpy(batch))
        found = self._session.run(
            list(self._tensors.values()), {self._session.get_inputs()[0].name: _time_first(batch)}
        )
        for name, spikes in zip(self._tensors, found, strict=True):
            self.compared += spikes.size
            differing = (expected[name].numpy() != spikes).reshape(
                self._model.timesteps, len(batch), -1
            )
            self._counts[name].append(differing.sum(axis=2))
        result: npt.NDArray[np.float32] = logits.numpy()
        return result

    def artifact_logits(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch, from the same graph."""
        inputs = {self._session.get_inputs()[0].name: _time_first(batch)}
        logits: npt.NDArray[np.float32] = self._session.run([OUTPUT], inputs)[0]
        return logits

    def per_image(self) -> npt.NDArray[np.int64]:
        """Flips of each image over all layers and timesteps."""
        total: npt.NDArray[np.int64] = sum(
            (np.concatenate(c, axis=1).sum(axis=0) for c in self._counts.values()),
            start=np.zeros(1, dtype=np.int64),
        )
        return total

    def by_layer(self, chosen: npt.NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
        """Flips of each layer at each timestep, over the chosen images."""
        wanted = chosen.astype(bool)
        return {
            name: tuple(int(n) for n in np.concatenate(c, axis=1)[:, wanted].sum(axis=1))
            for name, c in self._counts.items()
        }


def _time_first(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(batch.swapaxes(0, 1)) if batch.ndim == 5 else batch


def _spike_tensor(layer: str, produced: set[str], path: Path) -> str:
    for name in (f"{layer}.spikes", f"{layer}.spikes.t0"):
        if name in produced:
            return name
    raise VerificationError(f"{path} has no spikes of layer {layer}: it is not this model's")
