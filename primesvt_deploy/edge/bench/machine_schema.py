"""Schema of what another machine says of itself (`machine.py`), as far as it is used here."""

from __future__ import annotations

from typing import Any

from primesvt_deploy.edge.runtime.checked_json import fields, list_of, null_or, text, whole

__all__ = ["check_machine"]

_FACT = null_or(text(least=0, expected="what a system says of itself"))
_NAMES = list_of(text(most=100), most=1000)
_BYTES = null_or(whole())
_MACHINE = fields(
    {
        "fingerprint": fields(
            {"architecture": text(), "python": text(), "numpy": _FACT, "onnxruntime": _FACT},
            {"c_compiler": _FACT, "cpu_part": _FACT},
        ),
        "state": fields(
            {},
            {
                "memory_available_bytes": _BYTES,
                "swap_used_bytes": _BYTES,
                "governor": null_or(_NAMES),
                "throttled": null_or(fields({"raw": text(), "now": _NAMES, "since_boot": _NAMES})),
            },
        ),
    }
)


def check_machine(content: Any) -> None:
    """Check fingerprint and state of a machine before `preflight.check` judges them.

    Raises:
        ValueError: a value that no machine gives; one line.
    """
    _MACHINE(content, "")
