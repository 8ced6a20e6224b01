"""A made-up build with everything that a report shows; its numbers are of no measurement."""

from __future__ import annotations

import base64
import copy
import io
import math
import random
from typing import Any

from PIL import Image

from primesvt_deploy.report.content import (
    ClassifiedImage,
    ConfusedPair,
    LayerBytes,
    LayerEnergy,
    LayerFiring,
    MemoryStage,
    ReportContent,
    SampleImage,
    Sensitivity,
    SpikeRaster,
    TriedPlan,
)

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
RATES = tuple(i / 10 for i in range(1, 10))

LAYERS = (
    ("stem.0.conv", "stem.0", 648, 24),
    ("stem.1.conv", "stem.1", 10_368, 48),
    ("stem.2.conv", "stem.2", 41_472, 96),
    ("stem.3.conv", "residual", 165_888, 192),
    ("stem.position.conv", "residual", 331_776, 192),
    *(
        (f"blocks.{i}.{name}", f"blocks.{i}.{group}" if group else "residual", count, width)
        for i in range(2)
        for name, group, count, width in (
            ("attn.q.conv", "attn.qk", 36_864, 192),
            ("attn.k.conv", "attn.qk", 36_864, 192),
            ("attn.v.conv", "attn.v", 36_864, 192),
            ("attn.projection.conv", "", 36_864, 192),
            ("mlp.expand.conv", "mlp", 147_456, 768),
            ("mlp.contract.conv", "", 147_456, 192),
        )
    ),
    ("head", "", 1_930, 10),
)
KEPT = {
    "residual": 192,
    "blocks.0.mlp": 384,
    "blocks.1.mlp": 307,
    "blocks.0.attn.qk": 96,
    "blocks.1.attn.qk": 76,
    "blocks.0.attn.v": 192,
    "blocks.1.attn.v": 134,
    "stem.2": 96,
    "stem.1": 43,
    "stem.0": 24,
}
WIDTHS = {group: width for _, group, _, width in reversed(LAYERS) if group}


def picture(seed: int) -> str:
    """A small image as a `data:` URL."""
    chance = random.Random(seed)
    phase, hue = chance.random() * 6, [chance.randrange(40, 215) for _ in range(3)]
    image = Image.new("RGB", (32, 32))
    for y in range(32):
        for x in range(32):
            wave = math.sin(x / 5 + phase) * math.cos(y / (4 + seed % 5))
            image.putpixel((x, y), tuple(int(min(max(c + 70 * wave, 0), 255)) for c in hue))
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def example_plan() -> dict[str, Any]:
    """Content of a `plan.json`."""
    chance = random.Random(1)
    curves = []
    for group, width in WIDTHS.items():
        pain = {"residual": 40.0, "stem.0": 25.0, "stem.1": 12.0, "stem.2": 14.0}.get(group, 3.0)
        points = []
        for rate in RATES:
            drop = round(pain * rate**2 * 6 + chance.gauss(0, 0.4), 3)
            drop = min(drop, 63.0)
            points.append(
                {
                    "rate": rate,
                    "kept": round(width * (1 - rate)),
                    "top1_percent": round(73.63 - drop, 3),
                    "drop_points": drop,
                    "n": 512 if drop < 12 else 96,
                    "within": drop <= 3.0,
                }
            )
        curves.append(
            {
                "layer": group,
                "width": width,
                "heads": 12 if ".attn." in group else 1,
                "size": 1000 * width,
                "target": any(point["within"] for point in points),
                "curve": points,
            }
        )
    steps = []
    lost = 0.0
    for number, (group, kept) in enumerate(KEPT.items()):
        width = WIDTHS[group]
        if kept < width:
            lost += 0.31
            steps.append(
                {
                    "layer": group,
                    "rate": round(1 - kept / width, 1),
                    "kept": kept,
                    "drop": {
                        "points": round(lost, 4),
                        "interval95_points": [round(lost - 0.52, 4), round(lost + 0.52, 4)],
                        "lost": 120 + number,
                        "gained": 70 + number,
                        "n": 5000,
                    },
                }
            )
    return {
        "kept": {group: list(range(kept)) for group, kept in KEPT.items() if kept < WIDTHS[group]},
        "widths": KEPT,
        "policy": {
            "met": True,
            "predicted_bytes": 4_201_332,
            "search_drop_points": 1.86,
            "stopped_by": "the budget is met",
            "steps": steps,
            "measured_bytes": 4_187_654,
        },
        "robustness": curves,
        "ignored": [],
    }


def example_content() -> ReportContent:
    """Content with every part."""
    chance = random.Random(2)
    layers = tuple(
        LayerBytes(
            layer=name,
            group=group,
            dense=4 * count,
            shipped=round(4 * count * (KEPT[group] / WIDTHS[group] if group else 0.85)),
        )
        for name, group, count, _ in LAYERS
    )
    neurons = [name.removesuffix(".conv") for name, *_ in LAYERS[:-1]]
    firing = tuple(
        LayerFiring(
            layer=name,
            dense=(rate := round(0.03 + 0.25 * chance.random(), 4)),
            shipped=(now := round(rate * (0.8 + 0.5 * chance.random()), 4)),
            by_timestep=tuple(round(now * (0.4 + 0.4 * t), 4) for t in range(4)),
            channels=width,
            silent=chance.randrange(0, 9) if index % 3 else 0,
            constant=chance.randrange(0, 3) if index % 4 == 1 else 0,
        )
        for index, (name, (_, _, _, width)) in enumerate(zip(neurons, LAYERS, strict=False))
    )
    return ReportContent(
        layers=layers,
        tried=tuple(_tried(chance)),
        sensitivity=tuple(
            Sensitivity(
                group=group,
                rates=RATES,
                values=tuple(round(rate**2 * chance.random() * 0.2, 6) for rate in RATES),
            )
            for group in WIDTHS
        ),
        sensitivity_of="divergence from the dense model's probabilities, nats",
        memory=tuple(
            MemoryStage(stage=stage, dense=dense, shipped=shipped)
            for stage, dense, shipped in (
                ("import", 57_200_000, 57_180_000),
                ("load", 76_900_000, 71_300_000),
                ("first run", 84_100_000, 77_800_000),
                ("peak", 84_500_000, 78_000_000),
            )
        ),
        energy=tuple(
            LayerEnergy(layer=name, dense=(e := 900.0 * count**0.8), shipped=e * 0.71)
            for name, _, count, _ in LAYERS
        ),
        firing=firing,
        firing_images=256,
        sample=_sample(chance, neurons),
        classes=CLASSES,
        confusion=tuple(_confusion(chance)),
        lost=tuple(
            ClassifiedImage(
                index=37 * i + 5,
                image=picture(i + 10),
                label=CLASSES[i % 10],
                dense_probability=round(0.4 + 0.04 * i, 4),
                predicted=CLASSES[(i + 3) % 10],
                shipped_probability=round(0.35 + 0.03 * i, 4),
            )
            for i in range(12)
        ),
    )


def _tried(chance: random.Random) -> list[TriedPlan]:
    found = []
    for curve in example_plan()["robustness"]:
        for point in curve["curve"]:
            drop = point["drop_points"]
            found.append(
                TriedPlan(
                    step="robustness",
                    group=curve["layer"],
                    rate=point["rate"],
                    bytes=round(5_812_345 - point["rate"] * curve["width"] * 1500),
                    drop=drop,
                    low=drop - 1.6,
                    high=drop + 1.6,
                    n=point["n"],
                    decision="beyond" if point["n"] < 512 else "",
                    accepted=False,
                )
            )
    size, lost = 5_812_345.0, 0.0
    for number in range(26):
        accepted = number % 3 != 1
        step = 60_000 + 30_000 * chance.random()
        drop = lost + (0.11 if accepted else 2.2) + chance.gauss(0, 0.05)
        if accepted:
            size, lost = size - step, drop
        found.append(
            TriedPlan(
                step="greedy",
                group=list(WIDTHS)[number % 10],
                rate=0.1 * (1 + number % 9),
                bytes=round(size - (0 if accepted else 2.5 * step)),
                drop=drop,
                low=drop - 0.5,
                high=drop + 0.5,
                n=5000,
                accepted=accepted,
            )
        )
    return found


def _sample(chance: random.Random, neurons: list[str]) -> SampleImage:
    return SampleImage(
        image=picture(3),
        label="cat",
        predicted="dog",
        probability=0.6137,
        rasters=tuple(
            SpikeRaster(
                layer=name,
                rates=tuple(
                    tuple(
                        round(max(chance.gauss(0.02, 0.2), 0.0) ** 1.2, 4)
                        for _ in range(min(width, 64))
                    )
                    for _ in range(4)
                ),
            )
            for name, (_, _, _, width) in list(zip(neurons, LAYERS, strict=False))[::4]
        ),
        attention=tuple(
            tuple(round(math.exp(-((x - 5) ** 2 + (y - 3) ** 2) / 6), 4) for x in range(8))
            for y in range(8)
        ),
        attention_layer="blocks.1.attn",
    )


def _confusion(chance: random.Random) -> list[ConfusedPair]:
    pairs = []
    for label in range(10):
        wrong = {p: chance.randrange(0, 24) for p in range(10) if p != label}
        now = {p: max(count + chance.randrange(-4, 6), 0) for p, count in wrong.items()}
        wrong[label], now[label] = 500 - sum(wrong.values()), 500 - sum(now.values())
        pairs += [
            ConfusedPair(label=label, predicted=p, dense=wrong[p], shipped=now[p])
            for p in sorted(wrong)
            if wrong[p] or now[p]
        ]
    return pairs


def example_manifest() -> dict[str, Any]:
    """Content of a `manifest.json`, without its files."""
    return copy.deepcopy(_MANIFEST)


def accuracy(correct: int, n: int, low: float, high: float) -> dict[str, Any]:
    share = round(100.0 * correct / n, 4)
    return {"top1_percent": share, "interval95_percent": [low, high], "correct": correct, "n": n}


def _drop(points: float, low: float, high: float, lost: int, gained: int, n: int) -> dict[str, Any]:
    ends = [low, high]
    return {"points": points, "interval95_points": ends, "lost": lost, "gained": gained, "n": n}


_MANIFEST: dict[str, Any] = {
    "schema": "primesvt-bundle/1",
    "tool": {"name": "primesvt-deploy", "version": "0.7.1"},
    "created": "2026-03-01T12:34:56+00:00",
    "model": {
        "name": "spikformer-2-192-cifar10",
        "family": "spikformer",
        "arguments": {"timesteps": 4, "embed_dim": 192, "depth": 2, "num_heads": 12},
        "preprocessing": {"resize": 32, "mean": [0.4914, 0.4822, 0.4465]},
        "labels": list(CLASSES),
        "data": "cifar10",
    },
    "checkpoint": None,
    "input": {"name": "images", "shape": ["batch", 3, 32, 32], "layout": "NCHW"},
    "runtimes": ["onnx"],
    "native": None,
    "anytime": None,
    "notes": [],
    "left_unpruned": {},
    "precision": {
        "name": "fp32",
        "asked": "auto",
        "standard_ops": False,
        "integer_layers": 0,
        "real_layers": {},
        "candidates": [
            {
                "precision": "fp32",
                "pruned": True,
                "budget_bytes_used": 4_187_654,
                "file_bytes": 4_187_654,
                "drop": _drop(1.86, 1.23, 2.5, 190, 97, 5000),
                "met": True,
                "stopped_by": "the budget is met",
            },
            {
                "precision": "int8",
                "pruned": False,
                "budget_bytes_used": 1_562_345,
                "file_bytes": 1_562_345,
                "drop": _drop(2.14, 1.5, 2.8, 210, 103, 5000),
                "met": True,
                "stopped_by": "the budget is met",
            },
            {
                "precision": "int4",
                "pruned": False,
                "budget_bytes_used": 872_345,
                "file_bytes": 872_345,
                "drop": _drop(4.42, 3.6, 5.2, 330, 109, 5000),
                "met": False,
                "stopped_by": "more than 3 points are lost by quantizing alone",
            },
        ],
    },
    "constraints": {
        "budget_on": "file",
        "budget_mb": 4.2,
        "saving_percent": None,
        "budget_bytes": 4_200_000,
        "used_bytes": 4_187_654,
        "max_drop_points": 3.0,
        "budget_met": True,
        "accuracy_met": True,
        "met": True,
        "stopped_by": "the budget is met",
    },
    "size": {
        "dense": {
            "file_bytes": 5_812_345,
            "weight_bytes": 5_703_112,
            "parameters": 1_432_123,
            "parameter_bytes": 5_728_492,
            "shipped_parameters": 1_425_778,
            "macs": 412_345_678,
        },
        "shipped": {
            "file_bytes": 4_187_654,
            "weight_bytes": 4_078_220,
            "parameters": 1_026_123,
            "parameter_bytes": 4_104_492,
            "shipped_parameters": 1_019_555,
            "macs": 300_345_678,
        },
        "saved_percent": {"file": 27.95, "weights": 28.49, "parameters": 28.35, "macs": 27.16},
    },
    "accuracy": {
        "data": "cifar10",
        "data_digest": "77" * 32,
        "split": "held-out",
        "dense": accuracy(3766, 5000, 74.1, 76.5),
        "shipped": accuracy(3666, 5000, 72.1, 74.5),
        "drop": _drop(2.0, 1.31, 2.69, 203, 103, 5000),
        "search": {"dense": accuracy(3801, 5000, 74.8, 77.2), "drop_points": 1.86},
    },
    "latency": {
        "cpu": "Cortex-A76",
        "threads": 2,
        "runs": 100,
        "batch": 1,
        "dense": {"median_ms": 23.412, "p95_ms": 25.9},
        "shipped": {"median_ms": 17.81, "p95_ms": 19.22},
        "ratio_median": 1.314,
    },
    "verification": {
        "passed": True,
        "n": 256,
        "top1_agreement_percent": 99.6094,
        "top1_disagreements": 1,
        "max_abs_logit_difference": 0.1234,
        "max_abs_logit_difference_without_flips": 3.1e-6,
        "images_with_flips": 5,
        "flipped_spikes": 17,
        "spikes_compared": 98_765_432,
        "flips": [
            {"layer": "stem.0", "by_timestep": [0, 0, 0, 1]},
            {"layer": "stem.1", "by_timestep": [0, 3, 8, 5]},
            {"layer": "stem.9", "by_timestep": [0, 0, 0, 0]},
        ],
    },
    "policy": {
        "name": "greedy",
        "policy": "greedy",
        "max_drop": 3.0,
        "rates": list(RATES),
        "recover": ["free", "bias", "refit", "norms"],
        "channel_multiple": 1,
        "search_images": None,
        "robustness_images": 512,
        "seed": 11,
        "ignore": [],
    },
    "finetune": None,
    "compute": {
        "device": "cuda:1",
        "device_name": "NVIDIA H200",
        "evaluation_precision": "fp32",
        "engine": "ray",
        "workers": 8,
    },
    "seconds": {"robustness": 20.15, "greedy policy": 400.0},
    "versions": {"python": "3.11.2", "torch": "2.14.0"},
    "files": {"model.onnx": {"sha256": "ab12" * 16, "bytes": 4_187_654}},
}
