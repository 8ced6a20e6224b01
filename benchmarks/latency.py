"""Latency of one image: our artifacts, a naive export, and SpikingJelly in eager mode.

    python benchmarks/latency.py

All in one process, interleaved round by round, 200 timed rounds, at one and at two threads. The
naive export is torch.onnx's of SpikingJelly's own `Spikformer` with its neurons replaced by hand by
the plain step-by-step form; same weights, same opset.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import MEASURED, RESULTS, write
from safetensors.torch import load_file
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import nn

from primesvt_deploy import export, load, open_data
from primesvt_deploy.analysis.equal_heads import keep_most_important
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.model.reference_models import models_root
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan

RUNS, WARMUP = 200, 20
SAVING = 26.68


class NaiveNeuron(nn.Module):
    """A LIF neuron written by hand for export: a loop, `zeros_like` and `where`."""

    def __init__(self, node: neuron.LIFNode) -> None:
        super().__init__()
        self.tau, self.v_threshold = node.tau, node.v_threshold

    def forward(self, x_seq: torch.Tensor) -> torch.Tensor:
        """Spikes `[T, N, ...]` of currents `[T, N, ...]`."""
        v = torch.zeros_like(x_seq[0])
        spikes = []
        for x in x_seq:
            v = v + (x - v) / self.tau
            spike = (v >= self.v_threshold).to(x.dtype)
            v = torch.where(spike > 0, torch.zeros_like(v), v)
            spikes.append(spike)
        return torch.stack(spikes)


class MeanOverTime(nn.Module):
    """Logits `[N, K]` of a model that gives `[T, N, K]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images `[N, C, H, W]`."""
        return self.model(images).mean(dim=0)


def spikingjelly_model(model: SViT) -> nn.Module:
    """SpikingJelly's own class with the reference weights."""
    config = model.config
    assert isinstance(config, SpikformerConfig)
    reference = Spikformer(
        T=config.timesteps,
        img_size_h=config.image_size,
        img_size_w=config.image_size,
        patch_size=2 ** config.pooling.count("1"),
        num_classes=config.num_classes,
        embed_dims=config.embed_dim,
        num_heads=config.num_heads,
        depths=config.depth,
    )
    reference.load_state_dict(load_file(models_root() / model.name / "weights.safetensors"))
    return reference.eval()


def naive_export(model: SViT, path: Path) -> None:
    """Export SpikingJelly's class by torch.onnx, with neurons replaced by hand."""
    network = MeanOverTime(spikingjelly_model(model))
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, neuron.LIFNode):
                setattr(parent, name, NaiveNeuron(child))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, *model.config.input_shape),),
            path,
            dynamo=True,
            opset_version=18,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )


def pruned_as_measured(model: SViT) -> SViT:
    """The model that `saving.py` built at the paper's saving: its widths, by L2 importance."""
    points = json.loads((RESULTS / "saving.json").read_text())["points"]
    widths = next(p["widths"] for p in points if p["asked_saving_percent"] == SAVING)
    groups = find_groups(model.module, model.config.input_shape)
    plan = Plan()
    for group in groups:
        importance = l2_importance(model.module, group)
        kept = keep_most_important(importance, group, widths[group.name])
        plan = plan.replacing(group.name, kept)
    return model.with_module(cut(model.module, groups, plan))


def main() -> None:
    """Measure and write `results/latency.json`."""
    model = load(MEASURED)
    data = open_data(model)
    pruned = pruned_as_measured(model)
    image = data.held_out.inputs(0, 1)
    with tempfile.TemporaryDirectory() as directory:
        names = ("dense", "pruned", "naive", "int8", "int8_standard", "int4")
        paths = {name: Path(directory) / f"{name}.onnx" for name in names}
        export(model, paths["dense"])
        export(pruned, paths["pruned"])
        export(model, paths["int8"], precision="int8")
        export(model, paths["int8_standard"], precision="int8", standard=True)
        # Speed does not depend on the values of weights, so nothing is calibrated.
        export(model, paths["int4"], precision="int4")
        naive_export(model, paths["naive"])
        check_same(model, paths, image)
        results = [measured(model, paths, image, threads) for threads in (1, 2)]
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    write(
        "latency",
        {
            "model": model.name,
            "batch": 1,
            "runs": RUNS,
            "warmup": WARMUP,
            "pruned": f"as in saving.json at {SAVING}%",
            "file_bytes": sizes,
            "by_threads": results,
        },
    )


def check_same(model: SViT, paths: dict[str, Path], image: np.ndarray) -> None:
    """Assert that the dense and the naive artifact give the model's logits."""
    expected = model.logits(torch.from_numpy(image)).numpy()
    for name in ("dense", "naive"):
        found = OnnxModel(paths[name]).logits(image)
        assert np.abs(found - expected).max() <= 1e-3, name


def measured(
    model: SViT, paths: dict[str, Path], image: np.ndarray, threads: int
) -> dict[str, Any]:
    """Latencies at one thread count, and medians as multiples of our dense artifact's."""
    torch.set_num_threads(threads)
    eager = MeanOverTime(spikingjelly_model(model))
    tensor = torch.from_numpy(image)

    def run_eager() -> None:
        functional.reset_net(eager)
        with torch.inference_mode():
            eager(tensor)

    calls: dict[str, Callable[[], object]] = {"spikingjelly_eager": run_eager}
    for name, path in paths.items():
        session = OnnxModel(path, threads=threads)
        calls[name] = lambda s=session: s.logits(image)
    latencies = measure_latency(calls, runs=RUNS, warmup=WARMUP)
    return {
        "threads": threads,
        **{name: latency.to_dict() for name, latency in latencies.items()},
        "times_faster": {
            "dense_than_spikingjelly_eager": ratio(latencies, "spikingjelly_eager", "dense"),
            "dense_than_naive": ratio(latencies, "naive", "dense"),
            "pruned_than_dense": ratio(latencies, "dense", "pruned"),
            "int8_than_dense": ratio(latencies, "dense", "int8"),
            "int8_standard_than_dense": ratio(latencies, "dense", "int8_standard"),
            "int4_than_dense": ratio(latencies, "dense", "int4"),
            "pruned_than_spikingjelly_eager": ratio(latencies, "spikingjelly_eager", "pruned"),
        },
    }


def ratio(latencies: dict[str, Latency], slow: str, fast: str) -> float:
    """Speed of `fast` as a multiple of `slow`'s, by medians."""
    return round(latencies[slow].median / latencies[fast].median, 3)


if __name__ == "__main__":
    main()
