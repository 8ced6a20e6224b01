"""Write the figures of `results/` into README, the documentation and the model cards.

They stand between markers, `<!-- NAME -->` and `<!-- end NAME -->`.

    python benchmarks/tables.py

A figure stands in those texts only through this script; `tests/test_readme.py` holds them to it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from answers_table import answers_table
from cards import card, models_table
from estimates_table import estimates_table, time_table
from first_minutes_table import first_minutes_table
from frontier_tables import (
    finetuned_table,
    frontier_table,
    head_table,
    other_models_table,
    recovery_table,
    timesteps_table,
)
from latency_tables import latency_table
from native_tables import native_sections
from precision_tables import exactness_table, memory_table, precision_table, widths_table
from scaling_table import scaling_table
from sequential_table import sequential_table

from primesvt_deploy.edge.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def saving_table(found: dict[str, Any]) -> str:
    """Table of saving against held-out accuracy."""
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


def agreement_table(found: dict[str, Any]) -> str:
    """Table of medians of `bench` against another method of measuring."""
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
    """Table of whole builds at the widths of published models."""
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


def fuzz_table(found: dict[str, Any]) -> str:
    """Table of altered files and what was done with them."""
    lines = [
        "| altered | cases | clean | wrong | crash | time |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["kinds"]:
        lines.append(
            f"| {row['kind']} | {row['cases']} | {row['clean']} | {row['wrong']} | {row['crash']} "
            f"| {row['seconds']:.0f} s |"
        )
    lines += [
        "",
        "Clean: refused in one line, or taken and none the worse. Wrong: something altered was "
        "taken for the real thing. Crash: anything else, or more than "
        f"{found['most_seconds_a_case']:.0f} s. {found['cases']} cases, seed {found['seed']}; "
        f"{found['machine']['cpu']}, one thread, Python {found['machine']['python']}, torch "
        f"{found['machine']['torch']}.",
    ]
    return "\n".join(lines)


def headline_table(found: dict[str, Any], frontier: dict[str, Any], native: dict[str, Any]) -> str:
    """Table of one model in each form that people run it in."""
    (greedy,) = (s for s in frontier["series"] if (s["policy"], s["recovery"]) == ("greedy", "all"))
    saving = found["pruned_saving_percent"]
    (pruned,) = (p for p in greedy["points"] if p["asked_saving_percent"] == saving)
    dense, int8 = greedy["dense"]["held_out"], native["integer_input"]["int8"]["normalised"]
    eager = "spikingjelly_eager"
    rows = {
        eager: ("SpikingJelly in PyTorch (eager mode)", dense),
        "naive": ("torch.onnx export of that, neurons as loops", dense),
        "fp32": ("primesvt-deploy, fp32", dense),
        "pruned": (f"pruned by {pruned['saved_percent']:.0f}%, not retrained", pruned["held_out"]),
        "int8": ("int8, ONNX Runtime", int8),
        "native": ("int8, C engine", int8),
    }
    lines = [
        "| the same model as | file | held-out top-1 (95%) | latency, median "
        "| against SpikingJelly | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for kind, (title, accuracy) in rows.items():
        low, high = accuracy["interval95_percent"]
        faster = found["times_faster_than_eager"][kind]
        lines.append(
            f"| {title} | {found['file_bytes'][kind] / 1e6:.1f} MB "
            f"| {accuracy['top1_percent']:.1f}% [{low:.1f}, {high:.1f}] "
            f"| {found['latency'][kind]['median_ms']:.1f} ms "
            f"| {'-' if kind == eager else f'{faster:.1f}x faster'} "
            f"| {found['peak_bytes'][kind] / 1e6:.0f} MB |"
        )
    lines += [
        "",
        f"{found['model']}, one image, one thread, {found['machine']['cpu']}: {found['runs']} "
        f"rounds in which all forms take turns over {found['images']} images; peak memory of a "
        f"fresh process, Python and libraries included. Accuracy: n = {dense['n']}.",
    ]
    return "\n".join(lines)


def filled(path: Path) -> str:
    """Text of a file with every marked section rewritten from the results."""
    text = path.read_text()
    for name, content in sections(path.parent.name).items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text = pattern.sub(lambda _, c=f"{begin}\n{content}\n{end}": c, text)
    return text


def sections(model: str = "") -> dict[str, str]:
    """Content of every marked section, by name; with a model's name that of its card, too."""
    saving = json.loads((RESULTS / "saving.json").read_text())
    latency = json.loads((RESULTS / "latency.json").read_text())
    families = json.loads((RESULTS / "families.json").read_text())
    precision = json.loads((RESULTS / "precision.json").read_text())
    exactness = json.loads((RESULTS / "exactness.json").read_text())
    frontier = json.loads((RESULTS / "frontier.json").read_text())
    others = json.loads((RESULTS / "frontier_models.json").read_text())
    models = json.loads((RESULTS / "models.json").read_text())
    agreement = json.loads((RESULTS / "bench_agreement.json").read_text())
    fuzz = json.loads((RESULTS / "fuzz.json").read_text())
    layouts = json.loads((RESULTS / "memory_layout.json").read_text())
    headline = json.loads((RESULTS / "headline.json").read_text())
    native = json.loads((RESULTS / "native.json").read_text())
    content = {
        "headline": headline_table(headline, frontier, native),
        "precision": precision_table(precision),
        "memory": memory_table(precision),
        "widths": widths_table(precision),
        "exactness": exactness_table(exactness),
        "saving": saving_table(saving),
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
        "fuzz": fuzz_table(fuzz),
        **native_sections(RESULTS),
    }
    measured_later = {
        "answers": answers_table,
        "first_minutes": first_minutes_table,
        "estimates": estimates_table,
        "scaling": scaling_table,
        "sequential": sequential_table,
    }
    for name, table in measured_later.items():
        if (RESULTS / f"{name}.json").exists():
            content[name] = table(json.loads((RESULTS / f"{name}.json").read_text()))
    content["time"] = time_table(json.loads((RESULTS / "estimates.json").read_text()))
    if model in models["models"]:
        content["card"] = card(model, models, layouts)
    return content


def texts() -> list[Path]:
    """The files that hold marked sections."""
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "models").glob("*/README.md")),
    ]


def main() -> None:
    """Rewrite the marked sections."""
    for path in texts():
        write_whole(path, filled(path))


if __name__ == "__main__":
    main()
