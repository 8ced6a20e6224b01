"""Session profiles: ONNX Runtime options by name, which a bundle keeps in `session.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .bundle import Bundle
from .checked_json import Check, by_name, fields, flag, one_of, read_json, text
from .errors import BundleError
from .files import reason_of

__all__ = [
    "DEFAULTS",
    "LATENCY",
    "LOW_MEMORY",
    "SESSION_SCHEMA",
    "BundleSession",
    "SessionProfile",
    "make_profile",
    "read_session",
    "session_json",
]

SESSION_SCHEMA = "primesvt-session/1"
LATENCY = "latency"
LOW_MEMORY = "low-memory"
DEFAULTS = "defaults"
"""ONNX Runtime's own options, to compare with; no bundle has them."""

_FILE = "session.json"
_MODEL = "model.onnx"
_LEVELS = ("all", "extended", "basic", "disabled")
_OPTIONS = (
    "session.disable_prepacking",
    "session.intra_op.allow_spinning",
    "session.use_memory_mapped_ort_model",
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
)
"""Options that a bundle may set, to 0 or 1: others of ONNX Runtime write and read any files."""
_CHECKS: Mapping[str, Check] = {
    "name": text(),
    "file": text(r"(?!\.{1,2}$)[^/\\]+", most=255, expected="the name of a file in the bundle"),
    "graph_optimization_level": text("|".join(_LEVELS), expected=f"one of {', '.join(_LEVELS)}"),
    "enable_mem_pattern": flag(),
    "enable_mem_reuse": flag(),
    "enable_cpu_mem_arena": flag(),
    "config": by_name(one_of("0", "1"), name=one_of(*_OPTIONS)),
}
"""Checks of a profile's fields, by name."""
_SESSION = fields(
    {
        "requires": by_name(text(r"[0-9]{1,9}(\.[0-9]{1,9})*", expected="a version, such as 1.20")),
        "default": text(),
        "profiles": by_name(fields({})),
    }
)
_CLASHING = {
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
}
_NO_SPINNING = {"session.intra_op.allow_spinning": "0"}
_NO_PREPACKING = {"session.disable_prepacking": "1"}
# Mapping needs onnxruntime 1.26; older ones pass over the entry and read the file.
_MAPPED = {
    "session.use_memory_mapped_ort_model": "1",
    "session.use_ort_model_bytes_for_initializers": "1",
}


@dataclass(frozen=True, kw_only=True)
class SessionProfile:
    """ONNX Runtime session options under a name, and the model file they are for.

    Attributes:
        name: name of the profile.
        file: the model file's name in the bundle.
        graph_optimization_level: `all`, `extended`, `basic` or `disabled`.
        enable_mem_pattern: plan memory for each input shape.
        enable_mem_reuse: let tensors share buffers.
        enable_cpu_mem_arena: keep freed memory for the next tensor.
        config: further entries, by ONNX Runtime's keys.

    Raises:
        BundleError: a value that is none of these.
    """

    name: str
    file: str = _MODEL
    graph_optimization_level: str = "all"
    enable_mem_pattern: bool = False
    enable_mem_reuse: bool = True
    enable_cpu_mem_arena: bool = True
    config: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check all fields; see the class."""
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            try:
                check(dict(value) if isinstance(value, Mapping) else value, name)
            except ValueError as error:
                raise BundleError(f"session profile: {error}; copy the bundle again") from error
        if all(self.config.get(key) == "1" for key in _CLASHING):
            raise BundleError(
                f"session profile: {' and '.join(sorted(_CLASHING))} crash onnxruntime together; "
                "drop one"
            )

    @classmethod
    def from_dict(cls, d: object) -> SessionProfile:
        """Make one from what `to_dict` gives; raises BundleError."""
        if not isinstance(d, Mapping) or set(d) != set(_CHECKS):
            found = str(sorted(map(str, d)) if isinstance(d, Mapping) else type(d).__name__)
            raise BundleError(
                f"session profile: found {found:.200}, expected {sorted(_CHECKS)}; copy the bundle "
                "again"
            )
        return cls(**d)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {**asdict(self), "config": dict(self.config)}


@dataclass(frozen=True, kw_only=True)
class BundleSession:
    """Content of a bundle's `session.json`.

    Attributes:
        requires: the least onnxruntime version, by `domain::Operator` or `opset`.
        default: name of the profile to use where none is requested.
        profiles: by name.
    """

    requires: Mapping[str, str]
    default: str
    profiles: Mapping[str, SessionProfile]

    def profile(self, name: str | None = None) -> SessionProfile:
        """The profile called `name`, or the default one.

        Raises:
            BundleError: there is none of that name.
        """
        chosen = name or self.default
        if chosen not in self.profiles:
            raise BundleError(
                f"there is no session profile {chosen!r}: pass {' or '.join(self.profiles)}"
            )
        return self.profiles[chosen]


def make_profile(name: str, file: str = _MODEL) -> SessionProfile:
    """Make the profile `latency`, `low-memory` or `defaults` for a model file.

    `low-memory` does without what repacks weights: layouts for the CPU's cache (optimization
    `all`) and prepacking. Weights of a `.ort` file stay in the file, mapped; its graph is optimized
    already. Reuse stays on and so does the arena: without it peaks are higher.

    Args:
        name: name of the profile.
        file: name of the model file, `.onnx` or `.ort`.

    Raises:
        BundleError: no such profile.
    """
    if name == LATENCY:
        return SessionProfile(name=name, file=file, config=_NO_SPINNING)
    if name == DEFAULTS:
        return SessionProfile(name=name, file=file, enable_mem_pattern=True)
    if name != LOW_MEMORY:
        raise BundleError(
            f"there is no session profile {name!r}: pass {LATENCY}, {LOW_MEMORY} or {DEFAULTS}"
        )
    frugal = {**_NO_SPINNING, **_NO_PREPACKING}
    if file.endswith(".ort"):
        return SessionProfile(
            name=name, file=file, graph_optimization_level="disabled", config={**frugal, **_MAPPED}
        )
    return SessionProfile(name=name, file=file, graph_optimization_level="extended", config=frugal)


def session_json(
    *,
    requires: Mapping[str, str] | None = None,
    default: str = LATENCY,
    low_memory_file: str = _MODEL,
    fold_at_load: bool = True,
) -> dict[str, Any]:
    """Compose the content of a bundle's `session.json`.

    Args:
        requires: the least onnxruntime version, such as `1.20`, by what needs it: an operator as
            `domain::Name` (`ai.onnx` for the standard ones), or `opset`.
        default: `latency` or `low-memory`.
        low_memory_file: the model file that `low-memory` loads.
        fold_at_load: False: under `low-memory` packed weights are unpacked as they are used, layer
            by layer, rather than all of them at load.

    Raises:
        BundleError: a value of another kind.
    """
    frugal = make_profile(LOW_MEMORY, low_memory_file)
    if not fold_at_load:
        frugal = replace(frugal, graph_optimization_level="disabled")
    content = {
        "schema": SESSION_SCHEMA,
        "requires": dict(requires or {}),
        "default": default,
        "profiles": {
            LATENCY: make_profile(LATENCY).to_dict(),
            LOW_MEMORY: frugal.to_dict(),
        },
    }
    _parsed(content)
    return content


def read_session(bundle: Bundle) -> BundleSession:
    """Read a bundle's `session.json`; a bundle of an older build without one gets the defaults.

    Raises:
        BundleError: the file is damaged or of another schema.
    """
    path = bundle.path / _FILE
    try:
        content = read_json(path) if _FILE in bundle else session_json()
    except (ValueError, OSError) as error:
        raise BundleError(
            f"{path} is damaged: {reason_of(error)}; copy the bundle again"
        ) from error
    try:
        return _parsed(content)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def _parsed(content: object) -> BundleSession:
    if not isinstance(content, Mapping) or content.get("schema") != SESSION_SCHEMA:
        found = content.get("schema") if isinstance(content, Mapping) else type(content).__name__
        raise BundleError(
            f"found schema {found!r:.40}, expected {SESSION_SCHEMA!r}: use the matching "
            "primesvt-deploy"
        )
    try:
        _SESSION(content, "")
    except ValueError as error:
        raise BundleError(f"{error}; copy the bundle again") from error
    profiles = {
        name: SessionProfile.from_dict(profile) for name, profile in content["profiles"].items()
    }
    for name, profile in profiles.items():
        if profile.name != name:
            raise BundleError(
                f"session profile: {name!r} is called {profile.name!r}; copy the bundle again"
            )
    session = BundleSession(
        requires=dict(content["requires"]), default=content["default"], profiles=profiles
    )
    session.profile()
    return session
