"""Table of `results/sequential.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["sequential_table"]

_STAGES = ("dense accuracy", "robustness", "sensitivity", "policy", "calibration", "importance")
"""Parts of the names of the stages of a search."""


def sequential_table(found: dict[str, Any]) -> str:
    """Images a decision takes by each rule, and builds before and now."""
    lines = [
        "| rule | images a decision | wrong, % | wrong in the worst case, % |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {rule['images']:.0f} | {rule['wrong_percent']:.2f} "
        f"| {rule['worst_wrong_percent']:.2f} |"
        for name, rule in found["simulation"].items()
    ]
    lines += [
        "",
        f"Recorded hits of candidates of the reference, at most {found['allowed']:g} points to be "
        f"lost, in {found['orders']} random orders each; worst cases: drops at the limit and one "
        "image beyond it.",
    ]
    if _has_builds(found):
        lines += [
            "",
            "| build | s before | s now | of that search, before | now | plans "
            "| held-out drop, before | now |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for name, trees in found["builds"].items():
        pairs = list(zip(trees["before"], trees["now"], strict=True))
        lines += [_build(f"{name}, seed {seed}", *pair) for seed, pair in enumerate(pairs)]
    if _has_builds(found):
        lines += ["", _ratios(found)]
    native, torch = found["native"]["native_int8"], found["native"]["torch"]
    machine = found["machine"]
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores{_turns(found)}. The C engine as a judge: "
        f"{native['images_per_s']:.0f} images a second (int8) against {torch['images_per_s']:.0f} "
        f"in torch, but {native['prepare_s']:.1f} s to prepare a candidate against "
        f"{torch['prepare_s']:.1f} s.",
    ]
    return "\n".join(lines)


def _has_builds(found: dict[str, Any]) -> bool:
    """Whether builds were measured, too (`--seeds 0`: none)."""
    return any(trees["now"] for trees in found["builds"].values())


def _turns(found: dict[str, Any]) -> str:
    if not _has_builds(found):
        return ""
    return f", in turns with the earlier tree ({found['revision']}); later seeds: fewer images"


def _build(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    same = "the same" if before["kept"] == now["kept"] else "differ"
    drops = [_drop(each["held_out_drop"]) for each in (before, now)]
    return (
        f"| {name} | {before['seconds']:.0f} | {now['seconds']:.0f} | {_search(before):.0f} "
        f"| {_search(now):.0f} | {same} | {drops[0]} | {drops[1]} |"
    )


def _ratios(found: dict[str, Any]) -> str:
    """The range of seconds now by those before, of whole builds and of their searches."""
    pairs = [
        pair
        for trees in found["builds"].values()
        for pair in zip(trees["before"], trees["now"], strict=True)
    ]
    whole = sorted(now["seconds"] / before["seconds"] for before, now in pairs)
    search = sorted(_search(now) / _search(before) for before, now in pairs)
    return (
        f"A build now takes {whole[0]:.2f} to {whole[-1]:.2f} of its time before, its search "
        f"{search[0]:.2f} to {search[-1]:.2f}."
    )


def _search(build: dict[str, Any]) -> float:
    stages: dict[str, float] = build["stages"]
    return sum(s for name, s in stages.items() if any(part in name for part in _STAGES))


def _drop(drop: dict[str, Any]) -> str:
    low, high = drop["interval95_points"]
    return f"{drop['points']:.2f} [{low:.1f}, {high:.1f}]"
