"""Contract of every lowering pass: what it requires and ensures, and whether it changed anything.

Passes on graphs are `onnx_ir` passes: `requires` is checked before one runs, `ensures` after it,
and its result says whether the graph was modified. Passes on torch modules do the same by hand. A
condition that does not hold is refused by one of the errors here, which are `ExportError` too.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from primesvt_deploy.errors import ExportError

__all__ = ["ModulePassResult", "PostconditionError", "PreconditionError"]


class PreconditionError(ExportError, ir.passes.PreconditionError):
    """A pass was given what it cannot lower, or was run out of order."""


class PostconditionError(ExportError, ir.passes.PostconditionError):
    """A pass did not leave what the passes after it rely on."""


@dataclass(frozen=True)
class ModulePassResult:
    """Result of a pass that changes a torch module in place.

    Args:
        modified: whether anything was changed.
    """

    modified: bool
