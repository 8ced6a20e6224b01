"""The bundle's `report.html`: one self-contained page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from markupsafe import Markup

from primesvt_deploy.report.chart import dense_percent, robustness_svg

__all__ = ["render_report"]

_DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def render_report(
    manifest: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    policy: Mapping[str, Any],
) -> str:
    """Render the page; values that the inputs lack show as an en dash.

    Args:
        manifest: content of `manifest.json`, with or without `files`.
        curves: `Curve.to_dict()` of each layer, largest first.
        policy: the policy's result, as in `plan.json`.

    Returns:
        HTML without scripts or references to anything outside; the same for the same inputs.
    """
    constraints = manifest.get("constraints") or {}
    max_drop = _number(constraints.get("max_drop_points"))
    layers = _layers(curves, policy)
    curves = [curve for curve in curves if _points(curve)]
    dense = dense_percent(curves)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            {key: manifest.get(key) for key in _SECTIONS},
            plan=policy,
            layers=layers,
            rates=sorted({rate for curve in curves for rate in _points(curve)}),
            curves=[{**curve, "points": _points(curve)} for curve in curves],
            curve_images=_most_images(curves),
            curve_dense=dense,
            floor=None if dense is None or max_drop is None else dense - max_drop,
            # The chart escapes its own text.
            chart=Markup(robustness_svg(curves, max_drop=max_drop)) if curves else None,
            flips=_flips(manifest.get("verification") or {}),
        )
    )


_SECTIONS = (
    *("tool", "created", "model", "constraints", "size", "accuracy", "latency"),
    *("precision", "finetune", "anytime"),
    *("notes", "left_unpruned"),
    *("verification", "policy", "seconds", "versions", "files"),
)


def _layers(curves: Sequence[Mapping[str, Any]], policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of all layers in the policy's order, with the step that pruned each, if one did.

    Layers that were narrowed without a step of their own (by a policy that prunes all at once)
    have `after`, the channels left, and `rate`, the share of channels removed.
    """
    steps = policy.get("steps") or ()
    pruned = {str(step.get("layer")): step for step in steps if step.get("layer") != "all"}
    widths = policy.get("widths") or {}
    rows: list[dict[str, Any]] = []
    for curve in curves:
        name, width = str(curve.get("layer")), curve.get("width")
        row = {**curve, "step": pruned.pop(name, None)}
        after = _number(widths.get(name))
        if after is not None and width and after < width:
            row |= {"after": after, "rate": 1.0 - after / width}
        rows.append(row)
    rows += [{"layer": name, "step": step} for name, step in pruned.items()]
    return rows


def _points(curve: Mapping[str, Any]) -> dict[float, Mapping[str, Any]]:
    """Points of a curve by rate; a rate that rounds to the whole layer has none."""
    points = curve.get("curve") or ()
    return {p["rate"]: p for p in points if p.get("rate") is not None}


def _most_images(curves: Sequence[Mapping[str, Any]]) -> int | None:
    seen = [point.get("n") or 0 for curve in curves for point in _points(curve).values()]
    return max(seen, default=None)


def _flips(verification: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in verification.get("flips") or () if any(row.get("by_timestep") or ())]
    return {"rows": rows, "timesteps": max((len(row["by_timestep"]) for row in rows), default=0)}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("primesvt_deploy", "report"),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=lambda value: _DASH if _missing(value) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def _missing(value: object) -> bool:
    return value is None or value == "" or isinstance(value, Undefined)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _numeric(render: Callable[..., str]) -> Callable[..., object]:
    """A filter that renders numbers and passes other values on unchanged."""

    def apply(value: object, *arguments: Any) -> object:
        number = _number(value)
        return value if number is None else render(number, *arguments)

    return apply


def _fixed(value: float, decimals: int = 0, unit: str = "") -> str:
    """A number such as `12 345.60`, with thin spaces, followed by `unit`."""
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")  # no minus zero
    return text.replace(",", _THIN).replace("-", _MINUS) + unit


def _change(saved: float, decimals: int = 1, unit: str = "%") -> str:
    """A saving as a signed change: less is negative."""
    text = _fixed(-saved, decimals)
    return (text if saved >= 0 or not text.strip("0.") else f"+{text}") + unit


def _megabytes(value: float) -> str:
    return f"{_fixed(value / 1e6, 2)}{_THIN}MB"


def _millions(value: float) -> str:
    return f"{_fixed(value / 1e6, 2)}{_THIN}M"


def _share(value: float) -> str:
    return f"{100 * value:g}%"


def _scientific(value: float) -> str:
    """A number times a power of ten, or plain where that is short."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return _fixed(value, 0 if value == 0 else 3)
    digits, _, exponent = f"{value:.1e}".partition("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{digits.replace('-', _MINUS)}{_THIN}\N{MULTIPLICATION SIGN}{_THIN}10{power}"


def _duration(value: float) -> str:
    if value < 120:
        return f"{value:.1f}{_THIN}s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes}{_THIN}min {seconds}{_THIN}s"
    return f"{minutes // 60}{_THIN}h {minutes % 60}{_THIN}min"


def _interval(value: object, decimals: int = 1) -> object:
    """An interval such as `[74.1, 76.5]`."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = (_number(end) for end in value)
    if low is None or high is None:
        return None
    return f"[{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def _moment(value: object) -> object:
    """An ISO time as `2026-03-01 12:34 UTC`; other values unchanged."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return value
    return moment.strftime("%Y-%m-%d %H:%M %Z").strip()


def _plain(value: object) -> object:
    """Settings of any nesting in one line."""
    if isinstance(value, str) or _missing(value):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence):
        return ", ".join(str(_plain(item)) for item in value)
    return json.dumps(value, default=str)


def _sentence(value: object) -> object:
    return value if _missing(value) else f"{str(value).rstrip('. ')}."


def _described(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(str(name).replace("_", " "), _plain(value)) for name, value in pairs]


def _timed(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    pairs = list(pairs)
    total = sum(_number(spent) or 0.0 for _, spent in pairs)
    ends = [("in all", total)] if pairs else []
    return [(str(stage), _numeric(_duration)(spent)) for stage, spent in [*pairs, *ends]]


def _shares(values: object) -> object:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return values
    return ", ".join(str(_numeric(_share)(value)) for value in values)


_FILTERS: dict[str, Callable[..., object]] = {
    "fixed": _numeric(_fixed),
    "change": _numeric(_change),
    "mb": _numeric(_megabytes),
    "millions": _numeric(_millions),
    "share": _numeric(_share),
    "sci": _numeric(_scientific),
    "interval": _interval,
    "moment": _moment,
    "plain": _plain,
    "sentence": _sentence,
    "described": _described,
    "timed": _timed,
    "shares": _shares,
}
