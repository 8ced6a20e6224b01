"""Find the logits among the tensors that a user's module returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.module_output import output_tensors

__all__ = ["Logits", "find_logits"]

_MOST_NAMED = 4
_HEADS = ("head", "classifier", "fc")


@dataclass(frozen=True)
class Logits:
    """Place of the logits in an output, and their shape.

    Args:
        path: in the module's output, see `output_tensors`.
        over_time: they are `[T, N, K]`, else `[N, K]`.
        classes: K.
    """

    path: str
    over_time: bool
    classes: int


def find_logits(
    output: Any, net: nn.Module, timesteps: int, samples: int, classes: int | None
) -> Logits:
    """The one tensor of an output that has the shape of logits, `[N, K]` or `[T, N, K]`.

    Where several have it, those count whose K is the module's number of classes: its attribute
    `num_classes`, or the outputs of its head.

    Args:
        output: what the module returned.
        net: the module.
        timesteps: T.
        samples: N, another number than T.
        classes: K, where the user gives labels; None: any.

    Raises:
        ModelError: no tensor has that shape, or several have; begins with a verb.
    """
    tensors = list(output_tensors(output))
    found = [
        Logits(path, tensor.ndim == 3, tensor.shape[-1])
        for path, tensor in tensors
        if tensor.shape[:-1] in ((samples,), (timesteps, samples))
    ]
    if len(found) > 1:
        known = [classes] if classes is not None else list(_class_counts(net))
        found = next((k for k in ([f for f in found if f.classes == c] for c in known) if k), found)
    if len(found) == 1:
        return found[0]
    shapes = [f"{list(tensor.shape)}{f' at {path!r}' if path else ''}" for path, tensor in tensors]
    listed = ", ".join(shapes[:_MOST_NAMED]) + (", ..." if len(shapes) > _MOST_NAMED else "")
    returned = listed or f"a {type(output).__name__} without a tensor"
    inputs = f"for {samples} samples and {timesteps} timesteps"
    if found:
        raise ModelError(
            f"returns {returned} {inputs}, of which {len(found)} could be its logits: return the "
            "logits alone"
        )
    raise ModelError(f"returns {returned} {inputs}: expected logits [N, K] or [T, N, K]")


def _class_counts(net: nn.Module) -> Iterator[int]:
    """Numbers of classes that a module shows, the most trusted first."""
    if type(getattr(net, "num_classes", None)) is int:
        yield int(net.num_classes)  # type: ignore[arg-type]
    linear = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    named = [m for name, m in linear if name.rpartition(".")[2] in _HEADS]
    for layer in (*reversed(named), *(m for _, m in linear[-1:])):
        yield layer.out_features
