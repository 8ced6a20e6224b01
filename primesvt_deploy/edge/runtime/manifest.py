"""Read a bundle's manifest, and check it before anything in it is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checked_json import (
    Check,
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
from .errors import BundleError

__all__ = ["MANIFEST", "SCHEMA", "check_figures", "manifest_digest", "read_manifest"]

MANIFEST = "manifest.json"
"""Name of the manifest in a bundle."""
SCHEMA = "primesvt-bundle/1"

_LONG = 20_000
_LARGEST_FILE = 2**50


def _words(least: int = 0) -> Check:
    return text(least=least, most=_LONG, expected="text")


def _file_name(value: Any, where: str) -> None:
    """Path of a file in the bundle: names that lead nowhere else, with slashes between them."""
    text()(value, where)
    for part in value.split("/"):
        if part in ("", ".", "..") or "\\" in part or len(part.encode()) > 255:
            raise ValueError(
                f"{where} is {value[:40]!r}, expected the name of a file in the bundle"
            )


_DIGEST = text("[0-9a-f]{64}", expected="64 hexadecimal digits")
_FILE = fields({"bytes": whole(0, _LARGEST_FILE), "sha256": _DIGEST})
_MODEL = fields(
    {
        "name": _words(1),
        "labels": list_of(_words(1), least=1),
        "preprocessing": by_name(lambda value, where: None),
    },
    {
        "family": text(),
        "arguments": by_name(lambda value, where: None),
        "data": null_or(text(r"\w[\w.-]*")),
        "sizes": by_name(by_name(whole())),
    },
)
_CONTENT = fields(
    {
        "files": by_name(_FILE, name=_file_name),
        "input": by_name(lambda value, where: None),
        "output": by_name(lambda value, where: None),
        "model": _MODEL,
        "constraints": fields({"met": flag()}, {"verdict": _words()}),
        "accuracy": by_name(lambda value, where: None),
    },
    {
        "runtimes": list_of(text(), least=1),
        "command": null_or(_words()),
        "neurons": list_of(fields({"name": _words()})),
        "notes": list_of(_words()),
        "checkpoint": null_or(fields({"file": _words(), "bytes": whole(), "sha256": _DIGEST})),
        "left_unpruned": by_name(_words(), name=_words()),
        "precision": fields({"name": text()}),
        "compute": fields(
            {
                name: _words()
                for name in ("device", "device_name", "evaluation_precision", "engine")
            },
            {"workers": null_or(whole(1))},
        ),
        "size": fields({}, {"shipped": fields({}, {"weight_bytes": whole()})}),
    },
)
"""What classifying, verifying and measuring read."""

_INTERVAL = list_of(number(-100.0, 100.0), least=2, most=2)
_TOP1 = fields({"top1_percent": number(0.0, 100.0), "interval95_percent": _INTERVAL, "n": whole(1)})
_DROP = fields({"points": number(-100.0, 100.0), "interval95_points": _INTERVAL})
_SIZES = fields({name: whole() for name in ("file_bytes", "weight_bytes", "parameters", "macs")})
_SAVED = fields({name: number(-1e9, 100.0) for name in ("file", "weights", "parameters", "macs")})
_TIME = fields({"median_ms": number(0.0), "p95_ms": number(0.0)})
_RATIO = number(1e-9, 1e9)


def _speed(prefix: str) -> dict[str, Check]:
    """How many times faster one model is; none where one model was timed, or no interval then."""
    return {
        f"{prefix}ratio_median": _RATIO,
        f"{prefix}ratio_interval95": list_of(_RATIO, least=2, most=2),
        f"{prefix}difference_shown": flag(),
    }


_FIGURES = fields(
    {
        "model": fields({"family": text(), "arguments": fields({"timesteps": whole(1)})}),
        "input": fields(
            {"shape": list_of(lambda v, w: (text() if isinstance(v, str) else whole())(v, w))}
        ),
        "constraints": fields(
            {"stopped_by": _words(), "max_drop_points": null_or(number(0.0, 100.0))},
            {
                **dict.fromkeys(("budget_mb", "saving_percent"), null_or(number())),
                **dict.fromkeys(("budget_bytes", "used_bytes"), null_or(whole())),
                **dict.fromkeys(("budget_met", "accuracy_met"), flag()),
            },
        ),
        "size": fields({"dense": _SIZES, "shipped": _SIZES, "saved_percent": _SAVED}),
        "accuracy": fields(
            {"dense": _TOP1, "shipped": _TOP1, "drop": _DROP},
            {"search": null_or(fields({"drop_points": number(-100.0, 100.0)}))},
        ),
        "latency": fields(
            {
                "batch": whole(1),
                "threads": whole(1),
                "dense": _TIME,
                "shipped": _TIME,
                "cpu": _words(),
            },
            {
                "notes": list_of(_words()),
                "native": _TIME,
                "native_threads": whole(1),
                **_speed(""),
                **_speed("native_"),
            },
        ),
        "verification": fields(
            {
                name: whole()
                for name in ("n", "top1_disagreements", "flipped_spikes", "spikes_compared")
            },
            {
                "images_with_flips": whole(),
                "max_abs_logit_difference_without_flips": number(),
            },
        ),
    },
    {
        "native": null_or(
            fields(
                {
                    "file": text(),
                    "file_bytes": whole(),
                    "arena_bytes": whole(),
                    "verification": fields({"flips_behind_real": whole()}),
                }
            )
        ),
        "anytime": null_or(
            fields(
                {
                    "stages": list_of(
                        fields({"timesteps": whole(1), "search_share": number(0.0, 1.0)})
                    ),
                    "search": fields({"drop_points": number(-100.0, 100.0)}),
                    "held_out": null_or(
                        fields({"accuracy": _TOP1, "drop": _DROP, "mean_timesteps": number(0.0)})
                    ),
                }
            )
        ),
        "precision": fields(
            {
                "name": text(),
                "integer_layers": whole(),
                "real_layers": by_name(_words(), name=_words()),
                "candidates": list_of(
                    fields(
                        {
                            "precision": text(),
                            "pruned": flag(),
                            "file_bytes": whole(),
                            "drop": null_or(fields({"points": number(-100.0, 100.0)})),
                            "met": flag(),
                        }
                    )
                ),
            }
        ),
    },
)
"""What tables of a bundle show."""


def read_manifest(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a bundle's manifest and check its schema, its entries and its digest.

    Raises:
        BundleError: no bundle, another schema, or a manifest that was altered.
    """
    path = Path(bundle) / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        raise BundleError(f"{bundle} is no bundle: it has no {MANIFEST}") from error
    except NotADirectoryError as error:
        raise BundleError(f"{bundle} is a file: expected a bundle directory") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}; copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise BundleError(
            f"{path} has schema {str(found)[:40]!r}, expected {SCHEMA!r}: use the matching "
            "primesvt-deploy"
        )
    if manifest.get("manifest_sha256") != manifest_digest(manifest):
        raise BundleError(f"{path} was altered or is incomplete: copy the bundle again")
    _check(_CONTENT, manifest, path)
    return manifest


def check_figures(manifest: Mapping[str, Any]) -> None:
    """Check the figures of a manifest that tables show.

    Raises:
        BundleError: one is missing, or is not what a build writes.
    """
    _check(_FIGURES, manifest, Path(MANIFEST))


def _check(check: Check, manifest: Mapping[str, Any], path: Path) -> None:
    try:
        check(manifest, "")
    except ValueError as error:
        raise BundleError(f"{path} is not what a build writes: {error}; build it again") from error


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical JSON without its own `manifest_sha256`."""
    body = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
