"""README's tables of `results/precision.json` and `results/exactness.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["exactness_table", "memory_table", "precision_table", "widths_table"]


def precision_table(found: dict[str, Any]) -> str:
    """Table of whole builds of the reference model in each precision."""
    lines = [
        "| artifact | file | saved | held-out top-1 (95%) | drop, points (95%) | "
        "spikes that ONNX Runtime and PyTorch fire differently | layers on integers |",
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
        f"{found['machine']['cpu']}, onnxruntime {found['machine']['onnxruntime']}. Spikes are "
        "those of the whole network, float layers included, on images of the search split"
        f"{_no_flips(reference['builds'].values())}.",
    ]
    return "\n".join(lines)


def _no_flips(rows: Iterable[dict[str, Any]]) -> str:
    """A clause where no spike flipped: that is so by these images, not always."""
    if any(row["verification"]["flipped_spikes"] for row in rows):
        return ""
    return (
        ": on these no rounding of a float layer crossed a threshold; on other images some does, "
        "as the table of what is bit-exact shows"
    )


def memory_table(found: dict[str, Any]) -> str:
    """Table of the peak resident memory of a process that runs an artifact."""
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
        f"processes on {found['reference']['model']}, one process at published "
        "widths; one image, one thread. Python with numpy and onnxruntime alone: "
        f"{any_row['imported_bytes'] / 1e6:.0f} MB.",
    ]
    return "\n".join(lines)


def widths_table(found: dict[str, Any]) -> str:
    """Table of sizes and latencies at the widths of published models."""
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
    """Table of what is bit-exact in integer artifacts, and of what flips where."""
    lines = [
        "| artifact | spikes that differ in the float layer | in all layers, as that spreads "
        "| in all layers, given the float layer's outputs | same class | standard operators "
        "| integer part on emulated Cortex-A72, A76 |",
        "|---|---|---|---|---|---|---|",
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
            f"| {name} | {flips_in_float_layers(row)} "
            f"| {row['flipped_spikes']} of {row['spikes_compared'] / 1e6:.0f} M "
            f"| {row['flips_behind_float_layers']} "
            f"| {row['images'] - row['top1_disagreements']} of {row['images']} images "
            f"| {'bit-identical' if row['standard_operators_equal'] else 'differ'} | {emulated} |"
        )
    first = next(iter(found["precisions"].values()))
    floats = ", ".join(f"`{layer}`" for layer in first["float_layers"])
    lines += [
        "",
        f"ONNX Runtime against PyTorch with the same quantized weights, {first['images']} images "
        f"of the held-out split, {found['machine']['cpu']}. The float layers ({floats}) are added "
        "in another order by each, and a current that differs in its last bit can cross a "
        "threshold: what it flips there changes spikes behind it, too. Everything behind the float "
        "layers is bit-exact: given the same outputs of these, no spike differs. With "
        "`--integer-input` this model has no float layer before its head.",
    ]
    return "\n".join(lines)


def flips_in_float_layers(row: dict[str, Any]) -> int:
    """Flipped spikes of the neurons that a float convolution feeds."""
    fed = {layer.removesuffix(".conv") for layer in row["float_layers"]}
    return sum(flips for layer, flips in row["flips_by_layer"].items() if layer in fed)
