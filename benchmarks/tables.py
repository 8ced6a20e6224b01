"""Write the figures of `results/` into README and the model cards, between their markers.

    python benchmarks/tables.py

A figure stands in those texts only through this script; `tests/test_readme.py` holds them to it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cards import card, models_table
from frontier_tables import (
    finetuned_table,
    frontier_table,
    head_table,
    other_models_table,
    recovery_table,
    timesteps_table,
)

from primesvt_deploy.edge.whole_file import write_whole

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
    columns = ("spikingjelly_eager", "naive", "dense", "pruned", "int8", "int4")
    titles = (
        *("SpikingJelly eager", "naive torch.onnx export"),
        *("our fp32", "our fp32, pruned", "our int8", "our int4"),
    )
    lines = [
        "| threads | "
        + " | ".join(titles)
        + " | fp32 vs eager | fp32 vs naive | int8 vs fp32 (standard operators) |",
        "|---|" + "---|" * (len(columns) + 3),
    ]
    for row in found["by_threads"]:
        cells = [f"{row[c]['median_ms']:.1f} ms ({row[c]['p95_ms']:.1f})" for c in columns]
        faster = row["times_faster"]
        lines.append(
            f"| {row['threads']} | "
            + " | ".join(cells)
            + f" | {faster['dense_than_spikingjelly_eager']:.2f}x faster "
            f"| {faster['dense_than_naive']:.2f}x faster "
            f"| {faster['int8_than_dense']:.2f}x faster "
            f"({faster['int8_standard_than_dense']:.2f}x) |"
        )
    size = {name: f"{value / 1e6:.2f} MB" for name, value in found["file_bytes"].items()}
    lines += [
        "",
        f"Median (p95) of {found['runs']} runs, batch {found['batch']}, interleaved in one "
        f"process, {found['machine']['cpu']}. Files: naive {size['naive']}, dense {size['dense']}, "
        f"pruned {size['pruned']}, int8 {size['int8']}, int4 {size['int4']}.",
    ]
    return "\n".join(lines)


def precision_table(found: dict[str, Any]) -> str:
    """Whole builds of the reference model in each precision."""
    lines = [
        "| artifact | file | saved | held-out top-1 (95%) | drop, points (95%) | "
        "spikes flipped against torch | layers on integers |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = found["reference"]
    for name, row in reference["builds"].items():
        accuracy, drop, check = row["accuracy"]["shipped"], row["accuracy"]["drop"], row
        low, high = accuracy["interval95_percent"]
        least, most = drop["interval95_points"]
        verified = check["verification"]
        missed = "" if row["met"] else " (constraints not met)"
        lines.append(
            f"| {name}{missed} | {row['size']['shipped']['file_bytes'] / 1e6:.3f} MB "
            f"| {row['size']['saved_percent']['file']:.1f}% "
            f"| {accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}] "
            f"| {drop['points']:.2f} [{least:.1f}, {most:.1f}] "
            f"| {verified['flipped_spikes']} of {verified['spikes_compared'] / 1e6:.0f} M "
            f"({verified['n']} images) "
            f"| {row['integer_layers']} of {row['integer_layers'] + len(row['real_layers'])} |"
        )
    first = next(iter(reference["builds"].values()))
    dense = first["accuracy"]["dense"]
    low, high = dense["interval95_percent"]
    lines += [
        "",
        f"Dense fp32: {first['size']['dense']['file_bytes'] / 1e6:.3f} MB, "
        f"{dense['top1_percent']:.2f}% [{low:.1f}, {high:.1f}], n = {dense['n']}, "
        f"{found['machine']['cpu']}, onnxruntime {found['machine']['onnxruntime']}.",
    ]
    return "\n".join(lines)


def memory_table(found: dict[str, Any]) -> str:
    """Peak resident memory of a process that runs an artifact."""
    kinds = ("defaults", "latency", "low-memory", "low-memory, .ort")
    lines = [
        "| model | artifact | " + " | ".join(("ONNX Runtime's defaults", *kinds[1:])) + " |",
        "|---|---|" + "---|" * len(kinds),
    ]
    rows = {found["reference"]["model"]: found["reference"]["memory"]}
    rows |= {name: row["memory"] for name, row in found["widths"].items()}
    for model, by_artifact in rows.items():
        for artifact, memory in by_artifact.items():
            cells = [
                f"{memory[k]['peak_bytes'] / 1e6:.0f} ({memory[k]['anonymous_bytes'] / 1e6:.0f})"
                for k in kinds
            ]
            lines.append(f"| {model} | {artifact} | " + " | ".join(cells) + " |")
    any_row = next(iter(found["reference"]["memory"].values()))
    lines += [
        "",
        f"MB, peak (in steady state, what no file backs), medians of {any_row['processes']} fresh "
        "processes on the reference model, one process at published widths; one image, one thread. "
        f"Python with numpy and onnxruntime alone: "
        f"{any_row['imported_bytes'] / 1e6:.0f} MB.",
    ]
    return "\n".join(lines)


def widths_table(found: dict[str, Any]) -> str:
    """Sizes and latencies at the widths of published models."""
    lines = [
        "| model | fp32 | int8 | int4 | threads | fp32 | int8 | int4 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["widths"].items():
        size = {k: f"{v / 1e6:.1f} MB" for k, v in row["file_bytes"].items()}
        for threads, times in row["latency_by_threads"].items():
            faster = times["times_faster"]
            lines.append(
                f"| {name} | {size['fp32']} | {size['int8']} | {size['int4']} | {threads} "
                f"| {times['fp32']['median_ms']:.0f} ms "
                f"| {times['int8']['median_ms']:.0f} ms ({faster['int8_than_fp32']:.2f}x faster) "
                f"| {times['int4']['median_ms']:.0f} ms ({faster['int4_than_fp32']:.2f}x faster) |"
            )
    runs = min(
        t["runs"] for r in found["widths"].values() for t in r["latency_by_threads"].values()
    )
    lines += [
        "",
        f"Dense, random weights, 224 pixels, T = 4, one image; {found['machine']['cpu']}, medians "
        f"of {runs} interleaved runs or more.",
    ]
    return "\n".join(lines)


def exactness_table(found: dict[str, Any]) -> str:
    """Spikes of integer artifacts against torch and against emulated ARM."""
    lines = [
        "| artifact | images | spikes flipped against torch | behind the float layers | "
        "standard operators | emulated Cortex-A72, A76 |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["precisions"].items():
        arm = row["arm"]
        emulated = "not run"
        if arm:
            equal = [arm[cpu]["bit_identical_tensors"] for cpu in ("cortex-a72", "cortex-a76")]
            emulated = (
                f"{equal[0]}, {equal[1]} of {arm['tensors']} tensors bit-identical "
                f"({arm['images']} images)"
            )
        lines.append(
            f"| {name} | {row['images']} "
            f"| {row['flipped_spikes']} of {row['spikes_compared'] / 1e6:.0f} M "
            f"| {row['flips_behind_float_layers']} "
            f"| {'bit-identical' if row['standard_operators_equal'] else 'differ'} | {emulated} |"
        )
    return "\n".join(lines)


def agreement_table(found: dict[str, Any]) -> str:
    """Medians of `bench` against another way of measuring."""
    lines = [
        "| artifact | threads | bench | perf_test's way | ratio (least, most) |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['artifact']} | {row['threads']} | {row['bench_ms']:.2f} ms "
            f"| {row['perf_test_ms']:.2f} ms "
            f"| {row['ratio']:.3f} ({row['ratio_least']:.3f}, {row['ratio_most']:.3f}) |"
        )
    lines += [
        "",
        f"{found['model']}, batch {found['batch']}; medians of {found['rows'][0]['repetitions']} "
        f"repetitions, and of their ratios; {found['machine']['cpu']}, onnxruntime "
        f"{found['machine']['onnxruntime']}.",
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


def filled(path: Path) -> str:
    """The text of a file with every marked section written anew from the results."""
    text = path.read_text()
    saving = json.loads((RESULTS / "saving.json").read_text())
    latency = json.loads((RESULTS / "latency.json").read_text())
    families = json.loads((RESULTS / "families.json").read_text())
    precision = json.loads((RESULTS / "precision.json").read_text())
    exactness = json.loads((RESULTS / "exactness.json").read_text())
    frontier = json.loads((RESULTS / "frontier.json").read_text())
    others = json.loads((RESULTS / "frontier_models.json").read_text())
    models = json.loads((RESULTS / "models.json").read_text())
    agreement = json.loads((RESULTS / "bench_agreement.json").read_text())
    layouts = json.loads((RESULTS / "memory_layout.json").read_text())
    sections = {
        "precision": precision_table(precision),
        "memory": memory_table(precision),
        "widths": widths_table(precision),
        "exactness": exactness_table(exactness),
        "saving": saving_table(saving),
        "time": time_table(saving),
        "latency": latency_table(latency),
        "agreement": agreement_table(agreement),
        "families": families_table(families),
        "frontier": frontier_table(frontier),
        "recovery": recovery_table(frontier),
        "head": head_table(frontier),
        "other models": other_models_table(frontier, others),
        "timesteps": timesteps_table(frontier),
        "finetuned": finetuned_table(frontier),
        "models": models_table(models),
    }
    if path.parent.name in models["models"]:
        sections["card"] = card(path.parent.name, models, layouts)
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
        write_whole(path, filled(path))


if __name__ == "__main__":
    main()
