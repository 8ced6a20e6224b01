"""Memory layouts on a CPU: where oneDNN's gradients are wrong, what each layout costs.

    python benchmarks/memory_layout.py [PART ...]

Three parts, all by default, each with oneDNN's AVX2 kernels and with those that it chooses on
this CPU:

- *fault*: is the weight gradient of a strided 1x1 convolution right (`strided_pointwise.py`)?
- *speed*: training steps and evaluation, the layouts in turns, with ratios of the medians;
- *gradients*: has a training step of the shipped reference model, channels-last and compiled as it
  was trained, the gradients of float64 in contiguous layout? Rounding flips spikes, and a flip
  changes gradients, so they are compared with the spikes of the float32 run put into the float64
  one, and as they come.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from common import RESULTS, write
from torch import nn
from torch.nn import functional as F

from primesvt_deploy import load, open_data
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.maxformer import MaxFormerConfig
from primesvt_deploy.families.maxformer_checkpoint import MAXFORMER
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.qkformer import QKFormerConfig
from primesvt_deploy.families.qkformer_checkpoint import QKFORMER
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.training.strided_pointwise import subsampled_pointwise

INSTRUCTIONS = ("AVX2", "DEFAULT")
ROUNDS, WARMUP, THREADS = 15, 3, 2
IMAGES, BATCHES = 16, 3
LAYOUTS = ("contiguous", "channels-last", "channels-last, torch.compile")
SIZES, CHANNELS = (16, 80), (3, 7, 8, 15, 16)
WAYS = {
    "channels-last": (),
    "contiguous": ("--layout", "contiguous_format"),
    "channels-last, subsampled": ("--subsampled",),
}
"""Arguments of `strided_pointwise.py`."""
HANGS_SECONDS = 60.0
CHILD = "--child"


def main() -> None:
    """Measure and write `results/memory_layout.json`."""
    path = RESULTS / "memory_layout.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    content |= {
        "threads": THREADS,
        "rounds": ROUNDS,
        "default_instructions": torch.backends.cpu.get_cpu_capability(),
    }
    for part in sys.argv[1:] or ("fault", "speed", "gradients"):
        measure = faults if part == "fault" else partial(in_own_process, part)
        content[part] = {name: measure(name) for name in INSTRUCTIONS}
        write("memory_layout", {k: v for k, v in content.items() if k not in ("made", "machine")})


def in_own_process(part: str, instructions: str) -> Any:
    """Measure a part in a process that may use these instructions."""
    line = [sys.executable, __file__, CHILD, part]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    found = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def checking(instructions: str) -> dict[str, str]:
    """Environment of a process with no newer kernels than these, whose allocator checks itself."""
    return {
        **os.environ,
        "ONEDNN_MAX_CPU_ISA": instructions,
        "LD_PRELOAD": "libc_malloc_debug.so.0",
        "MALLOC_CHECK_": "3",
    }


def faults(instructions: str) -> list[dict[str, Any]]:
    """Run `strided_pointwise.py` at some widths and sizes, with one thread and two."""
    rows = []
    script = str(Path(__file__).with_name("strided_pointwise.py"))
    for size in SIZES:
        for channels in CHANNELS:
            row: dict[str, Any] = {"channels": channels, "size": size}
            for way, options in WAYS.items():
                for threads in range(1, THREADS + 1):
                    line = [script, str(channels), str(size), "--threads", str(threads), *options]
                    row[f"{way}, {threads} threads"] = outcome(line, instructions)
            print(instructions, row, flush=True)
            rows.append(row)
    return rows


def outcome(line: list[str], instructions: str) -> float | str:
    """Error as a share of the largest gradient, or how the process ended."""
    try:
        found = subprocess.run(
            [sys.executable, *line],
            check=False,
            capture_output=True,
            text=True,
            timeout=HANGS_SECONDS,
            env=checking(instructions),
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if found.returncode < 0:
        return f"signal {-found.returncode}"
    return float(f"{float(found.stdout):.1e}")


def networks() -> dict[str, tuple[SpikingNetwork, tuple[int, ...]]]:
    """Networks and batch shapes: the reference, and two with narrow strided shortcuts."""
    reference = load()
    shared: dict[str, Any] = {"in_channels": 3, "num_classes": 10, "depths": (1, 1, 2)}
    qkformer = QKFormerConfig(
        timesteps=4, image_size=32, form="cifar", stage_heads=(2, 4, 8), embed_dim=48, **shared
    )
    maxformer = MaxFormerConfig(timesteps=4, image_size=64, num_heads=4, embed_dim=96, **shared)
    return {
        reference.name: (reference.module, (32, *reference.config.input_shape)),
        "QKFormer, 32 pixels, D = 48": (QKFORMER.build(qkformer), (16, 3, 32, 32)),
        "MaxFormer, 64 pixels, D = 96": (MAXFORMER.build(maxformer), (16, 3, 64, 64)),
    }


def speed() -> dict[str, Any]:
    """Medians, and ratios to the contiguous layout (above 1: faster), of each network."""
    torch.set_num_threads(THREADS)
    return {
        name: {
            "batch": shape[0],
            "training_step": in_turns(training_steps(network, torch.randn(shape))),
            "evaluation": in_turns(evaluations(network, torch.randn(shape))),
        }
        for name, (network, shape) in networks().items()
    }


def training_steps(
    network: SpikingNetwork, x: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Calls of a forward and backward pass in each layout."""

    def step(student: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        student.zero_grad(set_to_none=True)
        loss: torch.Tensor = student(inputs).square().mean()
        loss.backward()
        return loss

    def subsampled(student: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        with subsampled_pointwise():
            return step(student, inputs)

    plain = copy.deepcopy(network).train().requires_grad_(True)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    laid = x.contiguous(memory_format=torch.channels_last)
    return {
        "contiguous": partial(step, plain, x),
        "channels-last": partial(step, last, laid),
        "channels-last, subsampled": partial(subsampled, last, laid),
    }


def evaluations(network: SpikingNetwork, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Calls of the lowered network in both layouts."""
    plain = lower_module(network)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    laid = x.contiguous(memory_format=torch.channels_last)
    evaluate = torch.no_grad()(lambda network, inputs: network(inputs))
    return {
        "contiguous": partial(evaluate, plain, x),
        "channels-last": partial(evaluate, last, laid),
    }


def in_turns(calls: dict[str, Callable[[], torch.Tensor]]) -> dict[str, dict[str, float]]:
    """Median seconds of each call, and its speed as a multiple of the first's."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARMUP + ROUNDS):
        for name, call in calls.items():
            begun = perf_counter()
            call()
            times[name].append(perf_counter() - begun)
    medians = {name: median(found[WARMUP:]) for name, found in times.items()}
    first = next(iter(medians.values()))
    return {
        name: {"seconds": round(m, 4), "times_as_fast": round(first / m, 3)}
        for name, m in medians.items()
    }


def gradients() -> dict[str, Any]:
    """Relative L2 distances of the reference's float32 gradients from contiguous float64 ones."""
    torch.set_num_threads(THREADS)
    model = load()
    train = open_data(model).train
    batches = []
    for start in range(0, BATCHES * IMAGES, IMAGES):
        stop = start + IMAGES
        x = torch.from_numpy(train.inputs(start, stop))
        batches.append(compared(model.module, x, torch.from_numpy(train.labels[start:stop])))
        print(batches[-1], file=sys.stderr, flush=True)
    return {"model": model.name, "T": model.timesteps, "images": IMAGES, "batches": batches}


def compared(
    network: SpikingNetwork, x: torch.Tensor, labels: torch.Tensor
) -> dict[str, dict[str, Any]]:
    """Compare the gradients of a batch in each layout, and compiled, with those of float64."""
    exact = StepOptions(double=True)
    own_spikes = step_gradients(network, x, labels, exact)
    rows = {}
    for way in LAYOUTS:
        layout, _, compiled = way.partition(", ")
        recorded = RecordedSpikes()
        options = StepOptions(layout=layout, compiled=bool(compiled))
        found = step_gradients(network, x, labels, options, recorded)
        imposed = ImposedSpikes(recorded.spikes)
        same_spikes = step_gradients(network, x, labels, exact, imposed)
        rows[way] = {
            "spikes": sum(t.numel() for t in recorded.spikes.values()),
            "flips_within_a_layer": imposed.flips,
            "spikes_given": distance(found, same_spikes),
            "as_it_comes": distance(found, own_spikes),
        }
    return rows


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Layout and precision of a training step.

    Args:
        layout: `contiguous` or `channels-last`.
        double: compute in float64.
        compiled: compile the network (torch.compile).
    """

    layout: str = "contiguous"
    double: bool = False
    compiled: bool = False


class RecordedSpikes:
    """Records the spikes of each neuron layer."""

    def __init__(self) -> None:
        self.spikes: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, spikes: torch.Tensor) -> None:
        """Record a layer's spikes and leave them as they are."""
        self.spikes[name] = spikes.detach()


class ImposedSpikes:
    """Replaces the spikes of each neuron layer by given ones, and counts those that differ."""

    def __init__(self, spikes: dict[str, torch.Tensor]) -> None:
        self._spikes, self.flips = spikes, 0

    def __call__(self, name: str, spikes: torch.Tensor) -> torch.Tensor:
        """The given spikes, with the gradients of the layer's own."""
        imposed = self._spikes[name]
        self.flips += int((imposed != spikes).sum())
        return spikes + (imposed.to(spikes.dtype) - spikes).detach()


def step_gradients(
    network: SpikingNetwork,
    x: torch.Tensor,
    labels: torch.Tensor,
    options: StepOptions,
    on_spikes: Callable[[str, torch.Tensor], torch.Tensor | None] = lambda *_: None,
) -> torch.Tensor:
    """All gradients of a training step as one vector.

    Args:
        network: the network, which stays as it is.
        x: images `[N, C, H, W]`.
        labels: `[N]`.
        options: layout and precision.
        on_spikes: receives each neuron layer's name and spikes; gives other spikes, or None.
    """
    student = copy.deepcopy(network).train().requires_grad_(True)
    if options.double:
        student, x = student.double(), x.double()
    if options.layout == "channels-last":
        student = student.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def hook(name: str, _: nn.Module, __: Any, spikes: torch.Tensor) -> torch.Tensor | None:
        return on_spikes(name, spikes)

    for name, module in student.named_modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(partial(hook, name))
    logits = (torch.compile(student) if options.compiled else student)(x)
    F.cross_entropy(logits, labels).backward()
    return torch.cat(
        [p.grad.double().flatten() for p in student.parameters() if p.grad is not None]
    )


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """Relative L2 distance of gradients."""
    return float(f"{float((found - right).norm() / right.norm()):.2e}")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps({"speed": speed, "gradients": gradients}[sys.argv[2]]()))
    else:
        main()
