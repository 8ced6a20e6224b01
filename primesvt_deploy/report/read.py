"""Read what a report shows of a bundle, and check it before anything is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.checked_json import (
    by_name,
    fields,
    flag,
    list_of,
    null_or,
    number,
    read_json,
    text,
    whole,
)
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.manifest import check_figures
from primesvt_deploy.errors import BundleError
from primesvt_deploy.report.content import REPORT_CONTENT, ReportContent, read_content

__all__ = ["BundleReport", "check_shown", "read_bundle", "read_plan"]

_PLAN = "plan.json"
_NAME, _RATE = text(most=20_000), number(0.0, 1.0)
_POINTS = number(-100.0, 100.0)
_DROP = fields(
    {
        "points": _POINTS,
        "interval95_points": list_of(number(-1000.0, 1000.0), least=2, most=2),
        "n": whole(),
    }
)
_STEP = fields({"layer": _NAME, "rate": _RATE, "kept": whole(), "drop": _DROP})
_POINT = fields(
    {
        "rate": _RATE,
        "kept": whole(),
        "top1_percent": number(0.0, 100.0),
        "drop_points": _POINTS,
        "n": whole(),
        "within": flag(),
    }
)
_CURVE = fields(
    {"layer": _NAME, "width": whole(1), "heads": whole(1), "curve": list_of(_POINT)},
    {"target": flag()},
)
_CHECKED_PLAN = fields(
    {"kept": by_name(list_of(whole()), name=_NAME)},
    {
        "widths": by_name(whole(), name=_NAME),
        "groups": list_of(fields({"layer": _NAME, "width": whole(1), "heads": whole(1)})),
        "policy": fields(
            {},
            {
                "predicted_bytes": null_or(whole()),
                "search_drop_points": null_or(_POINTS),
                "steps": list_of(_STEP),
            },
        ),
        "robustness": list_of(_CURVE),
    },
)
_WORDS = text(least=0, most=20_000, expected="text")
_CHECKED_MANIFEST = fields(
    {},
    {
        "constraints": fields(
            {},
            {
                "budget_bytes": null_or(whole()),
                "used_bytes": null_or(whole()),
                "budget_met": flag(),
                "accuracy_met": flag(),
            },
        ),
        "accuracy": fields(
            {},
            {
                "search": null_or(
                    fields({"drop_points": _POINTS, "dense": fields({}, {"n": whole()})})
                )
            },
        ),
        "tool": fields({"name": _WORDS, "version": _WORDS}),
        "created": _WORDS,
        "policy": fields(
            {"name": _WORDS},
            {
                "policy": _WORDS,
                "max_drop": null_or(number(0.0, 100.0)),
                "rates": list_of(_RATE),
                "recover": list_of(_WORDS),
                "ignore": list_of(_WORDS),
                "channel_multiple": whole(),
                "search_images": null_or(whole()),
                "robustness_images": whole(),
                "seed": whole(),
            },
        ),
        "finetune": null_or(by_name(lambda value, where: None)),
        "seconds": by_name(number(0.0), name=_WORDS),
        "versions": by_name(_WORDS, name=_WORDS),
        "verification": fields(
            {},
            {"flips": list_of(fields({"layer": _WORDS, "by_timestep": list_of(whole())}))},
        ),
    },
)
"""What a page shows of a manifest beside what tables show."""


@dataclass(frozen=True)
class BundleReport:
    """A bundle as far as a report shows it.

    Args:
        path: of the bundle, as it was given.
        manifest: content of `manifest.json`.
        plan: content of `plan.json`.
        content: of the figures; None: the bundle was built before it was kept.
    """

    path: str
    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]
    content: ReportContent | None


def read_bundle(path: str | os.PathLike[str]) -> BundleReport:
    """Read a bundle's manifest, plan and content.

    Raises:
        BundleError: it is no bundle, a file of it is altered or missing, or one is not what a
            build writes.
    """
    bundle = open_bundle(path)
    check_shown(bundle.manifest, bundle.path)
    content = read_content(bundle.file(REPORT_CONTENT)) if REPORT_CONTENT in bundle else None
    plan = read_plan(bundle.file(_PLAN))
    return BundleReport(on_one_line(os.fspath(path)), bundle.manifest, plan, content)


def check_shown(manifest: Mapping[str, Any], bundle: Path) -> None:
    """Check all of a manifest that a page shows.

    Args:
        manifest: as `read_manifest` returns it.
        bundle: that it is of, for messages.

    Raises:
        BundleError: something is missing, or is not what a build writes.
    """
    check_figures(manifest)
    try:
        _CHECKED_MANIFEST(manifest, "")
    except ValueError as error:
        raise BundleError(
            f"{on_one_line(str(bundle))}: its manifest is not what a build writes: {error}; build "
            "it again"
        ) from error


def read_plan(path: Path) -> Mapping[str, Any]:
    """Content of a `plan.json`, as far as a page shows it.

    Raises:
        BundleError: it cannot be read, or is not what a build writes.
    """
    try:
        found: Mapping[str, Any] = read_json(path)
        _CHECKED_PLAN(found, "")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{on_one_line(str(path))} is not what a build writes: {error}; build it again"
        ) from error
    return found
