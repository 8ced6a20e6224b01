"""Write the figures of `results/` into README and the model card, between their markers.

    python benchmarks/tables.py

A figure stands in those texts only through this script; `tests/test_readme.py` holds them to it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def saving_table(found: dict[str, Any]) -> str:
    """Saving against held-out accuracy."""
    lines = [
        "| asked | file saved | file | file / parameter bytes | held-out top-1 (95%) | "
        "drop, points (95%) | drop on the search split |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in found["points"]:
        accuracy, drop = point["accuracy"]["shipped"], point["accuracy"]["drop"]
        low, high = accuracy["interval95_percent"]
        least, most = drop["interval95_points"]
        missed = "" if point["met"] else " (not met)"
        lines.append(
            f"| {point['asked_saving_percent']:g}%{missed} "
            f"| {point['saved_percent']['file']:.1f}% | {point['file_bytes'] / 1e6:.2f} MB "
            f"| {point['file_over_parameters']:.3f} "
            f"| {accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}] "
            f"| {drop['points']:.2f} [{least:.1f}, {most:.1f}] "
            f"| {point['accuracy']['search']['drop_points']:.2f} |"
        )
    dense = found["points"][0]["accuracy"]["dense"]
    low, high = dense["interval95_percent"]
    lines += [
        "",
        f"Dense: {dense['top1_percent']:.2f}% [{low:.1f}, {high:.1f}], n = {dense['n']} held-out "
        f"images, {found['machine']['cpu']}, onnxruntime {found['machine']['onnxruntime']}.",
    ]
    return "\n".join(lines)


def time_table(found: dict[str, Any]) -> str:
    """Build time by stage."""
    stages = found["build_seconds"]
    lines = ["| stage | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in stages.items()]
    lines.append(f"| in all | {sum(stages.values()):.0f} |")
    return "\n".join(lines)


def latency_table(found: dict[str, Any]) -> str:
    """Latency of one image."""
    columns = ("spikingjelly_eager", "naive", "dense", "pruned")
    titles = ("SpikingJelly eager", "naive torch.onnx export", "our dense artifact", "our pruned")
    lines = [
        "| threads | " + " | ".join(titles) + " | dense vs eager | dense vs naive |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for row in found["by_threads"]:
        cells = [f"{row[c]['median_ms']:.1f} ms ({row[c]['p95_ms']:.1f})" for c in columns]
        faster = row["times_faster"]
        lines.append(
            f"| {row['threads']} | "
            + " | ".join(cells)
            + f" | {faster['dense_than_spikingjelly_eager']:.2f}x faster "
            f"| {faster['dense_than_naive']:.2f}x faster |"
        )
    size = {name: f"{value / 1e6:.2f} MB" for name, value in found["file_bytes"].items()}
    lines += [
        "",
        f"Median (p95) of {found['runs']} runs, batch {found['batch']}, interleaved in one "
        f"process, {found['machine']['cpu']}. Files: naive {size['naive']}, dense {size['dense']}, "
        f"pruned {size['pruned']}.",
    ]
    return "\n".join(lines)


def families_table(found: dict[str, Any]) -> str:
    """Whole builds at the widths of published models."""
    lines = [
        "| model | parameters | GMACs an image | file | latency, median | build | peak memory | "
        "spikes flipped (by rounding in torch alone) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["models"].items():
        dense, shipped = row["size"]["dense"], row["size"]["shipped"]
        latency, check = row["latency"], row["verification"]
        lines.append(
            f"| {name} | {dense['parameters'] / 1e6:.1f} M to {shipped['parameters'] / 1e6:.1f} M "
            f"| {dense['macs'] / 1e9:.1f} to {shipped['macs'] / 1e9:.1f} "
            f"| {dense['file_bytes'] / 1e6:.1f} to {shipped['file_bytes'] / 1e6:.1f} MB "
            f"| {latency['dense']['median_ms']:.0f} to {latency['shipped']['median_ms']:.0f} ms "
            f"| {row['build_seconds']:.0f} s | {row['peak_memory_mb'] / 1e3:.1f} GB "
            f"| {check['flipped_spikes'] / 1e6:.2f} of {check['spikes_compared'] / 1e6:.0f} M "
            f"({check['rounding_flips'] / 1e6:.2f} M) |"
        )
    first = next(iter(found["models"].values()))
    lines += [
        "",
        f"From dense to pruned; {found['machine']['cpu']}, {first['latency']['threads']} threads, "
        f"onnxruntime {found['machine']['onnxruntime']}, torch {found['machine']['torch']}; "
        f"{found['images']} random images, {first['verification']['n']} of them compared spike by "
        f"spike; latency of {min(r['latency']['runs'] for r in found['models'].values())} runs "
        "or more.",
    ]
    return "\n".join(lines)


def card_line(found: dict[str, Any]) -> str:
    """The reference model's held-out accuracy."""
    dense = found["points"][0]["accuracy"]["dense"]
    low, high = dense["interval95_percent"]
    return (
        f"Held-out top-1 at T = 4: {dense['top1_percent']:.2f}%, 95% interval "
        f"[{low:.1f}, {high:.1f}], n = {dense['n']} (exported, onnxruntime "
        f"{found['machine']['onnxruntime']})."
    )


def filled(text: str) -> str:
    """`text` with every marked section written anew from the results."""
    saving = json.loads((RESULTS / "saving.json").read_text())
    latency = json.loads((RESULTS / "latency.json").read_text())
    families = json.loads((RESULTS / "families.json").read_text())
    sections = {
        "saving": saving_table(saving),
        "time": time_table(saving),
        "latency": latency_table(latency),
        "families": families_table(families),
        "card": card_line(saving),
    }
    for name, content in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text = pattern.sub(lambda _, c=f"{begin}\n{content}\n{end}": c, text)
    return text


def texts() -> list[Path]:
    """The files that hold marked sections."""
    return [ROOT / "README.md", *sorted((ROOT / "models").glob("*/README.md"))]


def main() -> None:
    """Rewrite the marked sections."""
    for path in texts():
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
