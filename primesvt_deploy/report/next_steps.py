"""Commands: how a bundle was built, and what to try next, by what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.report.numbers import number, size

__all__ = ["Step", "build_command", "next_steps"]

_SLACK = 0.05
"""Share of the budget, or of the points allowed, from which on it is worth asking for less."""
_BUDGETS = {"budget_mb": "--budget-mb", "saving_percent": "--saving"}
_SMALLER = {"fp32": "int8", "int8": "int4"}


@dataclass(frozen=True)
class Step:
    """A command to try.

    Args:
        why: what it is for, one sentence.
        command: to be typed.
    """

    why: str
    command: str


def build_command(manifest: Mapping[str, Any], **changes: str | None) -> str:
    """The `build` command that was typed; for a build from Python one of the same settings.

    Args:
        manifest: content of `manifest.json`.
        changes: options to set, by their names with underscores; None leaves one out.
    """
    changed = {"--" + name.replace("_", "-"): value for name, value in changes.items()}
    if "--policy" in changed:
        changed["--frontier"] = None  # which has decided it
    command = manifest.get("command")
    known = _typed(str(command)) if command else _options(manifest)
    options = [(flag, value) for flag, value in known if flag not in changed]
    options += [(flag, value) for flag, value in changed.items() if value is not None]
    words = [word for option in options for word in option if word]
    return shlex.join(["primesvt-deploy", "build", *words])


def _typed(command: str) -> Iterator[tuple[str, str]]:
    """Options of a command as `build` records it: `--name value`, flags without a value."""
    try:
        words = shlex.split(command)
    except ValueError:  # somebody has altered it
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            yield word, "" if following.startswith("--") else following


def _options(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options of a build that are not the defaults, in the order of its help."""
    yield from _model(manifest)
    constraints = manifest.get("constraints") or {}
    for key, flag in _BUDGETS.items():
        if number(constraints.get(key)) is not None:
            yield flag, f"{constraints[key]:g}"
    if constraints.get("budget_on") not in (None, "file"):
        yield "--budget-on", str(constraints["budget_on"])
    yield from _form(manifest)
    yield from _search(manifest.get("policy") or {})
    epochs = (manifest.get("finetune") or {}).get("epochs")
    if epochs:
        yield "--finetune", str(epochs)


def _model(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The model and its data. A manifest has names of files, not the directories they lay in."""
    model, checkpoint = manifest.get("model") or {}, manifest.get("checkpoint") or {}
    if model.get("data"):
        yield "--model", str(model.get("name"))
        return
    if model.get("code"):
        yield "--factory", str((model.get("arguments") or {}).get("factory") or "MODULE:FUNCTION")
    if checkpoint.get("file"):
        yield "--checkpoint", str(checkpoint["file"])
    data = (manifest.get("accuracy") or {}).get("data")
    if data:
        yield "--data", str(data)


def _form(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    precision, runtimes = manifest.get("precision") or {}, list(manifest.get("runtimes") or ())
    native = "native" in runtimes
    if precision.get("asked") not in (None, "int8" if native else "fp32"):
        yield "--precision", str(precision["asked"])
    if native:
        yield "--runtime", "both" if "onnx" in runtimes else "native"
    if precision.get("standard_ops"):
        yield "--standard-ops", ""
    batch = (manifest.get("input") or {}).get("shape") or ["batch"]
    if isinstance(batch[0], int) and (manifest.get("input") or {}).get("layout") == "NCHW":
        yield "--batch", str(batch[0])


def _search(policy: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    usual = {"policy": "prioritized", "channel_multiple": 1, "robustness_images": 512, "seed": 0}
    if policy.get("policy") not in (None, usual["policy"]):
        yield "--policy", str(policy["policy"])
    if "max_drop" in policy and policy["max_drop"] != 3:
        most = policy["max_drop"]
        yield "--max-drop", "off" if most is None else f"{most:g}"
    recover = list(policy.get("recover") or ())
    if "recover" in policy and recover != ["free", "bias", "refit", "norms"]:
        yield "--recover", ",".join(recover) or "none"
    rates = [f"{rate:g}" for rate in policy.get("rates") or ()]
    if rates and rates != [f"{i / 10:g}" for i in range(1, 10)]:
        yield "--rates", ",".join(rates)
    for key in ("channel_multiple", "robustness_images", "seed"):
        if policy.get(key) not in (None, usual[key]):
            yield "--" + key.replace("_", "-"), str(policy[key])
    if policy.get("search_images"):
        yield "--search-images", str(policy["search_images"])
    for layer in policy.get("ignore") or ():
        yield "--ignore", str(layer)


def next_steps(manifest: Mapping[str, Any], bundle: str) -> tuple[Step, ...]:
    """Commands to try next, the most promising first.

    Args:
        manifest: content of `manifest.json`.
        bundle: its path, as it is shown in commands.
    """
    constraints = manifest.get("constraints") or {}
    another = f"{bundle.rstrip('/')}-2"
    steps = [*_by_outcome(manifest, constraints, another), *_by_form(manifest, another)]
    quoted = shlex.quote(bundle)
    steps.append(Step("Classify a picture of your own.", f"python {quoted}/run.py IMAGE"))
    steps.append(
        Step(
            "Measure it on the device, over SSH; the figures here are of the machine it was built "
            "on.",
            f"primesvt-deploy bench {quoted} --host USER@DEVICE --output bench.json",
        )
    )
    steps.append(
        Step(
            "Run it on an emulated Raspberry Pi, if there is no board at hand.",
            f"primesvt-deploy verify {quoted} --arm cortex-a72,cortex-a76",
        )
    )
    steps.append(
        Step(
            "Set it beside another bundle.",
            f"primesvt-deploy report {quoted} {shlex.quote(another)} --output compared.html",
        )
    )
    return tuple(steps)


def _by_outcome(
    manifest: Mapping[str, Any], constraints: Mapping[str, Any], another: str
) -> Iterator[Step]:
    """By whether budget and accuracy were met, and with how much to spare."""
    used, budget = number(constraints.get("used_bytes")), number(constraints.get("budget_bytes"))
    if constraints.get("met") is False:
        yield from _towards_the_budget(manifest, used, another)
    elif used and budget and used < (1 - _SLACK) * budget:
        yield Step(
            f"It has {size(used)} where {size(budget)} were allowed: ask for less.",
            _with_budget(manifest, 0.9 * used, another),
        )
    most = number(constraints.get("max_drop_points"))
    drop = (manifest.get("accuracy") or {}).get("drop") or {}
    high = number((drop.get("interval95_points") or (None, None))[1])
    if constraints.get("met") and most is not None and high is not None and high > most:
        yield Step(
            "Ask for a smaller loss, so that held-out images keep the constraint, too.",
            build_command(manifest, max_drop=f"{most / 2:g}", output=another),
        )


def _towards_the_budget(
    manifest: Mapping[str, Any], used: float | None, another: str
) -> Iterator[Step]:
    policy = manifest.get("policy") or {}
    if policy.get("policy") != "greedy":
        yield Step(
            "Search step by step over all layers: slower, and often smaller at the same loss.",
            build_command(manifest, policy="greedy", output=another),
        )
    if not manifest.get("finetune"):
        yield Step(
            "Train the pruned model on for an epoch, so that more can leave.",
            build_command(manifest, finetune="1", output=another),
        )
    if used:
        yield Step(
            f"Allow the {size(used)} that the best plan has.",
            _with_budget(manifest, used, another),
        )


def _with_budget(manifest: Mapping[str, Any], bytes_: float, another: str) -> str:
    """The build with another budget; rounded up, so that what it was made of fits."""
    megabytes = f"{-(-bytes_ // 1e3) / 1e3:g}"
    return build_command(manifest, saving=None, budget_mb=megabytes, output=another)


def _by_form(manifest: Mapping[str, Any], another: str) -> Iterator[Step]:
    """By precision and runtime: what is smaller or faster without another search."""
    precision = manifest.get("precision") or {}
    tried = {entry.get("precision") for entry in precision.get("candidates") or ()}
    smaller = _SMALLER.get(str(precision.get("name")))
    if smaller and smaller not in tried:
        bits = {"int8": "8", "int4": "4"}[smaller]
        yield Step(
            f"Keep {bits} bits a weight: a much smaller file, on integer arithmetic.",
            build_command(manifest, precision=smaller, output=another),
        )
    runtimes = manifest.get("runtimes") or ()
    if precision.get("name") == "fp32" and runtimes and "native" not in runtimes:
        yield Step(
            "Build for the native engine as well: C without dependencies that adds only spikes.",
            build_command(manifest, precision="int8", runtime="both", output=another),
        )
