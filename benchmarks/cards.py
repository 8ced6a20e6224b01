"""The measured part of a model card, from `results/` and the training log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from primesvt_deploy.model.reference_models import DEFAULT_MODEL

MODELS = Path(__file__).resolve().parent.parent / "models"


def card(name: str, found: dict[str, Any], layouts: dict[str, Any]) -> str:
    """Accuracy at each T, firing rates, and the training where the model has a log.

    Args:
        name: name of the model.
        found: content of `results/models.json`.
        layouts: content of `results/memory_layout.json`.
    """
    row = found["models"][name]
    lines = ["| T | held-out top-1 (95%) | search top-1 (95%) |", "|---|---|---|"]
    for steps, at in row["timesteps"].items():
        lines.append(f"| {steps} | {_top1(at['held_out'])} | {_top1(at['search'])} |")
    n = row["timesteps"]["1"]["held_out"]["n"]
    lines += [
        "",
        f"n = {n} each, {row['data']}; torch {found['machine']['torch']}, float32; fewer timesteps "
        "with the norms as trained. "
        f"{row['parameters']:,} parameters, {row['weights_bytes'] / 1e6:.1f} MB of weights.",
        "",
        *_training(name),
        *_gradients(name, layouts),
        "| neuron layer | firing rate | silent channels |",
        "|---|---|---|",
        *(
            f"| {layer['layer'].removesuffix('.neuron')} | {100 * layer['rate']:.1f}% "
            f"| {layer['silent']} of {layer['channels']} |"
            for layer in row["firing"]
        ),
        "",
        f"Over {row['firing'][0]['n']} search images.",
        *(("", _energy(row["energy"])) if "energy" in row else ()),
    ]
    return "\n".join(lines)


def models_table(found: dict[str, Any]) -> str:
    """Table of the reference models."""
    lines = ["| model | parameters | weights | held-out top-1 (95%) |", "|---|---|---|---|"]
    for name, row in found["models"].items():
        steps, at = list(row["timesteps"].items())[-1]
        lines.append(
            f"| [`{name}`](../models/{name}/README.md){' (default)' * (name == DEFAULT_MODEL)} "
            f"| {row['parameters'] / 1e6:.2f} M "
            f"| {row['weights_bytes'] / 1e6:.1f} MB | {_top1(at['held_out'])} at T = {steps}, "
            f"n = {at['held_out']['n']} |"
        )
    return "\n".join(lines)


def _energy(energy: dict[str, Any]) -> str:
    """Sentence on the energy estimate, and on the energy were every operation a MAC."""
    return (
        f"Energy, an estimate from these rates ({energy['mac_picojoules']} pJ a "
        f"multiply-accumulate, {energy['accumulate_picojoules']} pJ an accumulate; 45 nm, Horowitz "
        f"2014): {energy['microjoules']:.0f} uJ an image at the model's own T, of "
        f"{energy['accumulates'] / 1e6:.0f} M accumulates and {energy['macs'] / 1e6:.2f} M "
        f"multiply-accumulates; {energy['all_macs_microjoules']:.0f} uJ were every operation a "
        "multiply-accumulate."
    )


def _training(name: str) -> list[str]:
    """Lines on epochs, time and machine from the log, and its curve."""
    log = MODELS / name / "training" / "log.jsonl"
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    epochs = [row for row in rows if "search" in row]
    starts = [row for row in rows if "started" in row]
    phases: dict[int, int] = {}
    for row in epochs:
        phases[row["timesteps"]] = phases.get(row["timesteps"], 0) + 1
    phase_words = ", then ".join(
        f"{count} epoch{'s' if count > 1 else ''} at T = {steps}" for steps, count in phases.items()
    )
    if not epochs or not starts:
        return []
    return [
        f"This training: {phase_words}; {epochs[-1]['seconds'] / 3600:.1f} hours on "
        f"{', then '.join(dict.fromkeys(map(_start, starts)))}.",
        "",
        "![Loss and accuracy](training/curve.png)",
        "",
    ]


def _gradients(name: str, layouts: dict[str, Any]) -> list[str]:
    """Lines on the distance of a training step's gradients from those of float64."""
    kinds = {
        layouts["default_instructions"] if kernels == "DEFAULT" else kernels: row
        for kernels, row in layouts["gradients"].items()
        if row["model"] == name
    }
    if not kinds:
        return []
    row = next(iter(kinds.values()))

    def most(way: str, key: str, row: dict[str, Any]) -> str:
        return f"{max(batch[way][key] for batch in row['batches']):.0e}"

    compiled = "channels-last, torch.compile"
    given = " and ".join(
        f"{most(compiled, 'spikes_given', row)} with {kernels} kernels"
        for kernels, row in kinds.items()
    )
    free = {
        way: max(batch[way]["as_it_comes"] for row in kinds.values() for batch in row["batches"])
        for way in ("contiguous", compiled)
    }
    return [
        "It was trained with tensors channels-last. Gradients of such a step, in float32 through "
        "torch.compile, against those of contiguous float64 with the same spikes: relative L2 "
        f"distance {given} at most. Where rounding flips a spike they move further: "
        f"{free[compiled]:.2f} at most as they come, as those of contiguous float32 do "
        f"({free['contiguous']:.2f}). {len(row['batches'])} batches of {row['images']} images, "
        f"T = {row['T']}, torch {layouts['machine']['torch']}.",
        "",
    ]


def _start(row: dict[str, Any]) -> str:
    """Machine and versions with which a run was started or resumed."""
    devices = f"{row['devices']} x " if row["devices"] > 1 else ""
    threads = f", {row['threads']} threads" if row["precision"] == "fp32" else ""
    kernels = f" ({row['instructions']})" if row.get("instructions") else ""
    by = " through torch.compile" if row["compiled"] else ""
    return (
        f"{devices}{row['device']}{kernels}{threads}, {row['precision']}{by}, "
        f"torch {row['torch']}, SpikingJelly {row['spikingjelly']}"
    )


def _top1(accuracy: dict[str, Any]) -> str:
    low, high = accuracy["interval95_percent"]
    return f"{accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}]"
