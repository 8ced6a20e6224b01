"""README's tables of `results/native*.json` and `results/anytime.json`."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from latency_tables import best_by_threads
from native_timing import AS_IT_IS, AVX2, NO_AMX, NO_VNNI

__all__ = ["native_sections"]

_KINDS = (AS_IT_IS, NO_AMX, NO_VNNI, AVX2)


def native_sections(results: Path) -> dict[str, str]:
    """The sections of the native runtime's tables, by name.

    Args:
        results: the folder of result files.
    """
    names = ("native", "native_large", "native_arm", "native_density", "anytime")
    native, large, arm, density, anytime = (
        json.loads((results / f"{name}.json").read_text()) for name in names
    )
    return {
        "native": _time_table(native),
        "native sizes": _size_table(native),
        "native operations": _operations_table(native),
        "native pixels": _pixels_table(native),
        "native large": _large_table(large),
        "native arm": _arm_table(arm),
        "native microcontrollers": _microcontrollers_table(arm),
        "native density": _density_table(density),
        "anytime": _anytime_table(anytime),
    }


def _anytime_table(found: dict[str, Any]) -> str:
    """Accuracy against mean time of runs that stop early, beside fixed timesteps."""
    lines = [
        "| run | mean T | held-out top-1 (95%) | lost against all timesteps, points (95%) "
        "| mean time, ONNX | native | native vs SpikingJelly eager |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = found["rows"]
    for name in rows:
        kind, _, rest = name.removeprefix("native_").rpartition("_")
        if not name.startswith("native_"):
            continue
        row, onnx = rows[name], rows.get(name.replace("native_", "onnx_"))
        title = f"--anytime {rest}" if kind == "anytime" else f"T = {rest.removeprefix('T')}"
        if "pruned" in name:
            saved = row["saved_percent"]["parameters"]
            title = f"{saved:.0f}% pruned, fine-tuned at T = 2, --integer-input, --anytime"
        there = f"{onnx['mean_ms']:.1f} ms" if onnx else "-"
        low, high = row["held_out"]["interval95_percent"]
        least, most = row["drop"]["interval95_points"]
        lines.append(
            f"| {title} | {row['timesteps']:.2f} | {row['held_out']['top1_percent']:.2f}% "
            f"[{low:.1f}, {high:.1f}] | {row['drop']['points']:.2f} [{least:.1f}, {most:.1f}] "
            f"| {there} | {row['mean_ms']:.1f} ms "
            f"| {row['times_faster_than_eager']:.1f}x |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{found['model']}, int8, one thread, {found['runs']} rounds in turns over "
            f"{found['images_timed']} held-out images; n = {rows['native_T1']['held_out']['n']}; "
            f"SpikingJelly eager {rows['spikingjelly_eager']['mean_ms']:.1f} ms; "
            f"{found['machine']['cpu']}.",
        ]
    )


def _kind(kind: str, found: dict[str, Any], *, beside: Container[str] = ()) -> str:
    """What a processor has: one that has AMX as well is told by the figures without it."""
    if kind != AS_IT_IS:
        return kind
    return f"{'AMX' if NO_AMX in beside else found['machine']['instructions']}, as it is"


def _time_table(found: dict[str, Any]) -> str:
    """Latency of one image in the native runtime, beside the others."""
    columns = ("spikingjelly_eager", "onnx_fp32", "onnx_int8", "onnx_int4", "native_int8")
    lines = [
        "| processor | threads | SpikingJelly eager | ONNX fp32 | ONNX int8 | ONNX int4 "
        "| native int8 | native int4 | native int8 vs eager | vs ONNX fp32 | vs ONNX int8 "
        "| native int4 vs ONNX int4 |",
        "|---|---|" + "---|" * 10,
    ]
    for kind in _KINDS:
        for row in found["timings"].get(kind, {}).get("by_threads", ()):
            cells = [
                f"{row[name]['median_ms']:.1f} ms" if name in row else "-"
                for name in (*columns, "native_int4")
            ]
            faster = row["times_faster"]
            cells += [_times(faster["native_int8"], name) for name in columns[:3]]
            cells.append(_times(faster["native_int4"], "onnx_int4"))
            name = _kind(kind, found, beside=found["timings"])
            lines.append(f"| {name} | {row['threads']} | " + " | ".join(cells) + " |")
        if kind == AS_IT_IS:
            lines.append(_best_row(found, (*columns, "native_int4")))
    lines += [
        "",
        f"{found['model']}, medians of {found['runs']} interleaved rounds over {found['images']} "
        f"held-out images in turn, and of the ratios round by round; batch {found['batch']}, "
        f"{found['machine']['cpu']}, onnxruntime {found['machine']['onnxruntime']}. Without VNNI "
        "and without AVX-512 both run with the kernels that they choose on such processors. "
        "Best: each at the thread count where its median is least, and ratios of these medians; "
        "the other rows compare at the same number of threads.",
    ]
    return "\n".join(lines)


def _best_row(found: dict[str, Any], columns: tuple[str, ...]) -> str:
    """The row of each column at its own best thread count, on the processor as it is."""
    best = best_by_threads(found["timings"][AS_IT_IS]["by_threads"], columns)
    cells = [f"{best[name][0]:.1f} ms (at {best[name][1]})" for name in columns]
    pairs = [("native_int8", name) for name in columns[:3]] + [("native_int4", "onnx_int4")]
    cells += [_times({slow: best[slow][0] / best[fast][0]}, slow) for fast, slow in pairs]
    title = _kind(AS_IT_IS, found, beside=found["timings"])
    return f"| {title} | best | " + " | ".join(cells) + " |"


def _times(faster: dict[str, float], name: str) -> str:
    if name not in faster:
        return "-"
    ratio = faster[name]
    return f"{ratio:.2f}x faster" if ratio >= 1.0 else f"{1.0 / ratio:.2f}x slower"


def _size_table(found: dict[str, Any]) -> str:
    """Sizes, memory and start of both runtimes, and their agreement."""
    lines = [
        "| weights | `model.onnx` | `model.svit` | its weights alone | with scales and biases "
        "| arena | peak memory, ONNX Runtime | `classify` | first result | whole process |",
        "|---|" + "---|" * 9,
    ]
    for name, row in found["memory"].items():
        lines.append(
            f"| {name} | {row['onnx_file_bytes'] / 1e6:.3f} MB "
            f"| {row['native_file_bytes'] / 1e6:.3f} MB "
            f"| {row['weights_bytes'] / 1e6:.3f} MB (+{row['file_over_weights_percent']:.1f}%) "
            f"| {row['parameters_bytes'] / 1e6:.3f} MB "
            f"(+{row['file_over_parameters_percent']:.1f}%) "
            f"| {row['arena_bytes'] / 1e3:.1f} KB | {row['onnx_peak_bytes'] / 1e6:.1f} MB "
            f"| {row['native_peak_bytes'] / 1e6:.2f} MB | {row['first_result_ms']:.1f} ms "
            f"| {row['whole_process_ms']:.1f} ms |"
        )
    agreed = "; ".join(
        f"{name}: the same class on {row['same_class']} of {row['images']} images, "
        f"{row['flipped_spikes']} of {row['spikes_compared'] / 1e6:.0f} M spikes differ, "
        f"{row['flips_where_the_float_layer_agrees']} on images whose spikes of the float layer "
        "are the same"
        for name, row in found["agreement"].items()
    )
    starts = next(iter(found["memory"].values()))["starts"]
    lines += [
        "",
        f"Medians of {starts} starts. ONNX Runtime against the "
        f"native runtime (not PyTorch) on held-out images, {agreed}.",
    ]
    return "\n".join(lines)


def _operations_table(found: dict[str, Any]) -> str:
    """Density of each layer's inputs, and its operations."""
    operations = found["operations"]
    lines = [
        "| layer | inputs that fire | operations, dense | synaptic operations "
        "| additions, grouped by pattern |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name.removesuffix('.conv')} | {100 * row['density']:.1f}% "
        + "".join(f"| {row[key] / 1e6:.1f} M " for key in operations["an_image"])
        + "|"
        for name, row in operations["layers"].items()
    ]
    whole = operations["an_image"]
    rate, peak = operations["one_thread"], operations["one_thread"]["peak_additions_a_second"]
    lines += [
        "| in all | | " + " | ".join(f"{count / 1e6:.1f} M" for count in whole.values()) + " |",
        "",
        f"Means of {operations['images']} held-out images, int8. On one thread, over the whole "
        f"time of an image: {rate['synaptic_operations_a_second'] / 1e9:.1f} G synaptic "
        f"operations and {rate['grouped_additions_a_second'] / 1e9:.1f} G additions a second; "
        f"this machine adds {peak['in_registers'] / 1e9:.0f} G 16-bit numbers a second in "
        f"registers, and {peak['of_int8_rows_in_cache'] / 1e9:.0f} G of int8 rows in its cache.",
    ]
    return "\n".join(lines)


def _pixels_table(found: dict[str, Any]) -> str:
    """Accuracy with pixels as input."""
    lines = [
        "| weights | normalised images, top-1 (95%) | `--integer-input` | drop, points (95%) |",
        "|---|---|---|---|",
    ]
    n = 0
    for name, row in found["integer_input"].items():
        cells = []
        for key in ("normalised", "pixels"):
            low, high = row[key]["interval95_percent"]
            cells.append(f"{row[key]['top1_percent']:.2f}% [{low:.1f}, {high:.1f}]")
        least, most = row["drop"]["interval95_points"]
        n = row["drop"]["n"]
        lines.append(
            f"| {name} | {cells[0]} | {cells[1]} "
            f"| {row['drop']['points']:.2f} [{least:.1f}, {most:.1f}] |"
        )
    return "\n".join([*lines, "", f"{found['model']}, unpruned, n = {n} held-out images."])


def _large_table(found: dict[str, Any]) -> str:
    """Latency at the widths of published models."""
    lines = [
        "| model | neurons that fire, median of layers (least, most) | processor | threads "
        "| ONNX int8 | native int8 | |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = 0
    for name, row in found["models"].items():
        density = row["density"]
        fired = (
            f"{100 * density['median']:.0f}% "
            f"({100 * density['least']:.0f}%, {100 * density['most']:.0f}%)"
        )
        for kind in _KINDS:
            for time in row["timings"].get(kind, {}).get("by_threads", ()):
                runs = time["runs"]
                ratio = time["times_faster"]["native_int8"]
                lines.append(
                    f"| {name} | {fired} | {_kind(kind, found, beside=row['timings'])} "
                    f"| {time['threads']} "
                    f"| {time['onnx_int8']['median_ms']:.0f} ms "
                    f"| {time['native_int8']['median_ms']:.0f} ms "
                    f"| {_times(ratio, 'onnx_int8')} |"
                )
    scaling = ", ".join(
        f"{name} {row['timings']['two_threads_times_faster_than_one']:.2f}x"
        for name, row in found["models"].items()
    )
    lines += [
        "",
        "224 pixels, T = 4, random weights, norms set so that neurons fire as often as in the "
        f"trained reference model ({found['images']}); medians of {runs} interleaved rounds and of "
        f"their ratios; {found['machine']['cpu']}. Two threads against one, native: {scaling}.",
    ]
    return "\n".join(lines)


def _arm_table(found: dict[str, Any]) -> str:
    """Instructions of an image on emulated ARM CPUs."""
    lines = [
        "| weights | CPU | ONNX Runtime | native | fewer | logits bit-identical |",
        "|---|---|---|---|---|---|",
    ]
    for precision, cpus in found["precisions"].items():
        for cpu, row in cpus.items():
            native = row["native"]
            lines.append(
                f"| {precision} | {cpu} | {row['instructions'] / 1e6:.1f} M "
                f"| {native['instructions'] / 1e6:.1f} M | {row['instruction_ratio']:.2f}x "
                f"| {native['identical']} of {native['images']} |"
            )
    lines += ["", f"Instructions an image, one thread, {found['model']}, T = {found['timesteps']}."]
    return "\n".join(lines)


def _microcontrollers_table(found: dict[str, Any]) -> str:
    """Flash, memory and instructions on emulated microcontrollers."""
    lines = [
        "| core | flash, engine and model | arena | stack | instructions an image | logits |",
        "|---|---|---|---|---|---|",
    ]
    small = found["microcontrollers"]
    for core, row in small["cores"].items():
        lines.append(
            f"| Cortex-{core.upper()} | {row['flash_bytes_without_images'] / 1024:.0f} KB "
            f"| {row['arena_bytes'] / 1024:.1f} KB | {row['stack_bytes'] / 1024:.1f} KB "
            f"| {row['instructions'] / 1e6:.0f} M "
            f"| {'as here' if row['same_logits'] else 'differ'} |"
        )
    lines += [
        "",
        f"{found['model']} with {small['precision']} weights and {100 * small['kept_channels']:g}% "
        f"of its channels, in {small['model_bytes'] / 1024:.0f} KB.",
    ]
    return "\n".join(lines)


def _density_table(found: dict[str, Any]) -> str:
    """Time of a layer by density, by rows of active inputs and by all products."""
    densities = found["densities"]
    shown = [i for i, density in enumerate(densities) if density in (0.1, 0.3, 0.5, 0.9)]
    kinds = [kind for kind in _KINDS if kind in found["choice_over_faster"]]
    lines = [
        "| layer | "
        + " | ".join(f"rows at {100 * densities[i]:.0f}%" for i in shown)
        + " | products | "
        + " | ".join(f"products faster from, {_kind(kind, found)}" for kind in kinds)
        + " |",
        "|---|" + "---|" * (len(shown) + 1 + len(kinds)),
    ]
    for name, row in found["layers"].items():
        first = row[kinds[0]]["independent"]
        cells = [f"{first['rows_ms'][i]:.2f} ms" for i in shown]
        middle = len(densities) // 2
        cells.append(f"{first['products_ms'][middle]:.2f} ms" if first["products_ms"] else "-")
        cells += [_from(row[kind]["independent"]) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    choices = "; ".join(
        f"{_kind(kind, found)} {over['mean']:.2f} times, at most {over['most']:.2f} times"
        for kind, over in found["choice_over_faster"].items()
        if over
    )
    lines += [
        "",
        f"One thread, T = {found['timesteps']}, spikes drawn independently for each timestep (the "
        f"least that can be grouped); medians of {found['runs']} runs, or of those of a quarter "
        f"second; {found['machine']['cpu']}. What the engine chooses, over all layers and "
        f"densities, spikes that fire in all timesteps among them, takes this much of the faster "
        f"way's time: {choices}.",
    ]
    return "\n".join(lines)


def _from(row: dict[str, Any]) -> str:
    density = row["products_faster_from"]
    if not row["products_ms"]:
        return "not there"
    return "never" if density is None else f"{100 * density:.0f}%"
