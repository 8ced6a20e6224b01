"""Headings of help: commands by what a person does, options by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

__all__ = [
    "FIRST_COMMANDS",
    "REST_OF_COMMANDS",
    "commands_under_headings",
    "options_under_headings",
]

Headings = Mapping[str, tuple[str, ...]]

_COMMANDS: Headings = {
    "Make a bundle": ("build", "frontier", "analyze"),
    "Look at it": ("inspect", "report", "models"),
    "Check it and run it": ("verify", "run"),
    "Measure": ("bench", "compare"),
    "This machine": ("doctor", "completion"),
}
REST_OF_COMMANDS = "More"
FIRST_COMMANDS = (
    ("primesvt-deploy doctor", "what this machine can do"),
    ("primesvt-deploy build --budget-mb 20", "ship the model that comes along"),
    ("primesvt-deploy run bundle photo.jpg", "classify an image with it"),
)
"""Commands for someone who is here for the first time, and what each does."""

_OF_A_MODEL: Headings = {
    "Size": ("budget_mb", "saving", "budget_on", "savings"),
    "Accuracy": ("max_drop",),
    "Model": (
        *("name", "checkpoint", "factory", "family", "key", "ema", "sha256", "ignore_args"),
        "labels",
    ),
    "What the checkpoint does not tell": (
        *("timesteps", "heads", "stage_heads", "image_size", "patch_size", "pooling", "levels"),
        *("attention_mode", "chunk_size", "frames", "tau", "v_threshold"),
        *("mean", "std", "resize", "interpolation"),
    ),
    "Data": ("data", "search_images", "robustness_images", "held_out_images", "seed"),
    "Pruning": ("policy", "recover", "rates", "channel_multiple", "ignore", "frontier_path"),
    "Fine-tuning": (
        *("finetune", "finetune_slack", "finetune_timesteps", "learning_rate", "batch_size"),
        *("train_images", "distillation"),
    ),
    "Where it computes": ("device", "evaluation_precision", "workers", "ray"),
    "What is shipped": (
        *("precision", "runtime", "mcu", "anytime", "integer_input", "standard_ops"),
        *("ort_format", "batch", "ship_timesteps"),
    ),
    "Where it goes": ("output", "force", "sign"),
    "Beforehand": ("dry_run", "cost"),
}
_OF_BENCH: Headings = {
    "What is measured": ("runtime", "profiles", "batches", "threads", "operators"),
    "How long": ("seconds", "rounds", "warmup"),
    "The result": ("output", "baseline", "fail_if_slower", "any_machine"),
    "Another machine": (
        *("destination", "host_port", "host_identity", "host_config", "host_key"),
        *("host_bootstrap", "host_compiler", "host_python", "host_directory", "host_patience"),
    ),
}
_OPTIONS = {
    "build": _OF_A_MODEL,
    "frontier": _OF_A_MODEL,
    "analyze": _OF_A_MODEL,
    "bench": _OF_BENCH,
}
"""Headings of the commands that have many options; others have one heading."""
_REST_OF_OPTIONS = "This run"
_ALL_OPTIONS = "Options"


def commands_under_headings(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of commands under their headings, those of none under a last one."""
    return _under(_COMMANDS, list(names), REST_OF_COMMANDS)


def options_under_headings(
    command: str | None, options: Iterable[click.Parameter]
) -> dict[str, list[click.Parameter]]:
    """Options of a command under their headings, those of none under a last one."""
    headings = _OPTIONS.get(command or "")
    by_name = {str(option.name): option for option in options}
    if headings is None:
        return {_ALL_OPTIONS: list(by_name.values())}
    found = _under(headings, list(by_name), _REST_OF_OPTIONS)
    return {heading: [by_name[name] for name in names] for heading, names in found.items()}


def _under(headings: Headings, names: list[str], rest: str) -> dict[str, list[str]]:
    listed = {name for group in headings.values() for name in group}
    found = {title: [n for n in group if n in names] for title, group in headings.items()}
    found[rest] = [name for name in names if name not in listed]
    return {title: group for title, group in found.items() if group}
