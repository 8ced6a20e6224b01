"""Schema of result files: what comparisons compute with, and what is shown besides."""

from __future__ import annotations

from typing import Any

from primesvt_deploy.edge.runtime.checked_json import (
    fields,
    list_of,
    null_or,
    number,
    one_of,
    text,
    whole,
)
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX, RUNTIMES

__all__ = ["MOST_ROUNDS", "SCHEMA", "check_measured", "check_result", "key_of"]

SCHEMA = "primesvt-bench/1"
MOST_ROUNDS = 10_000
"""Blocks of one configuration: the intervals of as many take 1 GB to compute."""

_MOST_ENTRIES = 10_000
_NAME = text(most=10_000)  # a label may be most of a path
_FACT = null_or(text(least=0, expected="what a system says of itself"))
_FEATURES = list_of(text(most=100), most=1000)
# With times between these, no ratio of two is out of range.
_MS = number(1e-6, 1e9)
_RATIO = number(1e-5, 1e15)
_COST = number(0, 1e15)
_BYTES = null_or(whole())

_MACHINE = fields(
    {},
    {
        **dict.fromkeys(("cpu", "architecture", "board", "onnxruntime"), _FACT),
        "logical_cores": null_or(whole()),
        "features": null_or(_FEATURES),
    },
)
_VARIANT = fields(
    {
        "name": _NAME,
        "bundle": _NAME,
        "profile": null_or(text()),
        "batch": whole(1),
        "threads": whole(1),
        "rounds_ms": list_of(list_of(_MS, least=1), least=1, most=MOST_ROUNDS),
        "latency_ms": fields({"median": _MS, "p95": _MS}),
    },
    {
        "runtime": one_of(*RUNTIMES),  # results before there was another have none
        "memory": fields({}, {"steady": fields({}, {"VmHWM": _BYTES})}),
    },
)
_RESULT = fields(
    {
        "machine": _MACHINE,
        "bundles": list_of(fields({}), least=1, most=_MOST_ENTRIES),
        "variants": list_of(_VARIANT, least=1, most=_MOST_ENTRIES),
    }
)

_POWER = fields({"mean_watts": _COST})
_ENERGY = fields(
    {
        "idle": _POWER,
        "running": _POWER,
        "millijoules_an_inference": _COST,
        "millijoules_an_inference_above_idle": number(),
        "covers": text(),
    }
)
_OPERATOR = fields({"operator": text(), "nodes": whole(), "ms": _COST, "share": number(0, 1)})
_RESIDENT = fields({"VmHWM": _BYTES, "RssAnon": _BYTES})
_SHOWN = fields(
    {
        "latency_ms": fields({"min": _COST, "median": _MS, "p95": _MS, "p99": null_or(_MS)}),
        "histogram": fields({"counts": list_of(whole(), least=1, most=1000)}),
        "samples_per_second": _COST,
        "seconds": fields(dict.fromkeys(("import", "load", "first_run"), _COST)),
        "memory": fields(dict.fromkeys(("imported", "session", "first run", "steady"), _RESIDENT)),
        "file_bytes": _BYTES,
        "initializer_bytes": _BYTES,
        "arena": null_or(fields(dict.fromkeys(("extended_bytes", "reserved_bytes"), _BYTES))),
        "operators": null_or(fields({"by_type": list_of(_OPERATOR)})),
        "energy": null_or(_ENERGY),
    }
)
_OF_NATIVE = fields(
    {"native": fields({"kernels": text(), "arena_bytes": _BYTES}, {"program_peak_bytes": _BYTES})}
)
_COMPARED = fields(
    {
        "variant": _NAME,
        "against": _NAME,
        "time_ratio": _RATIO,
        "interval95": list_of(_RATIO, least=2, most=2),
    }
)
_MEASURED = fields(
    {
        "schema": one_of(SCHEMA),
        "machine": fields(
            {
                **dict.fromkeys(("cpu", "board", "architecture", "python", "onnxruntime"), _FACT),
                "physical_cores": null_or(whole()),
            },
            {"c_compiler": _FACT},
        ),
        "notes": list_of(text(most=20_000)),
        "comparisons": list_of(_COMPARED, most=_MOST_ENTRIES),
        "variants": list_of(_SHOWN, least=1, most=_MOST_ENTRIES),
    }
)


def check_result(content: Any) -> None:
    """Check all that comparisons use of a result; further entries may be anything.

    Raises:
        ValueError: a value that no measurement gives; one line.
    """
    _RESULT(content, "")
    seen: dict[tuple[Any, ...], int] = {}
    for position, variant in enumerate(content["variants"]):
        where, runtime = f"variants[{position}]", key_of(variant)[0]
        if (variant["profile"] is None) is not (runtime == NATIVE):
            raise ValueError(
                f"{where}.profile is {variant['profile']!r:.40}, which the runtime {runtime} "
                f"{'has none of' if runtime == NATIVE else 'needs'}"
            )
        for mark in (("name", variant["name"]), (variant["bundle"], *key_of(variant))):
            if seen.setdefault(mark, position) != position:
                raise ValueError(f"{where} is the same configuration as variants[{seen[mark]}]")


def check_measured(content: Any) -> None:
    """Check a result as `check_result` does, and all that is shown of one just measured.

    Raises:
        ValueError: a value that no measurement gives; one line.
    """
    _MEASURED(content, "")
    check_result(content)
    for position, variant in enumerate(content["variants"]):
        if key_of(variant)[0] == NATIVE:
            _OF_NATIVE(variant, f"variants[{position}]")


def key_of(variant: Any) -> tuple[str, str | None, int, int]:
    """Runtime, profile, batch and threads, which comparable entries of one label agree in."""
    runtime = variant.get("runtime", ONNX)
    return runtime, variant["profile"], variant["batch"], variant["threads"]
