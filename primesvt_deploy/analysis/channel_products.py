"""Rules of products: which channels are summed over, and so leave together, and which remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from primesvt_deploy.analysis.channel_labels import Planes, varying_axes

if TYPE_CHECKING:
    from primesvt_deploy.analysis.channel_trace import ChannelTrace

__all__ = ["PRODUCTS", "Products"]

PRODUCTS = {"matmul", "bmm", "mm", "einsum", "scaled_dot_product_attention"}


class Products:
    """Works out the planes of a product, and joins or fixes channels.

    Args:
        trace: is told.
        values: of the arguments.
    """

    def __init__(self, trace: ChannelTrace, values: Mapping[fx.Node, Any]) -> None:
        self._trace, self._channels, self._values = trace, trace.channels, values

    def _planes(self, node: Any) -> Planes:
        found = self._trace.planes.get(node, ())
        return found if isinstance(found, tuple) else ()

    def apply(self, node: fx.Node, name: str) -> Planes:
        """Planes of a product's result."""
        if name == "scaled_dot_product_attention":
            q, k, v = (node.args[i] for i in range(3))
            self._contract("...nd", q, "...md", k, "...nm")
            return self._contract("...nm", None, "...md", v, "...nd")
        if name == "einsum":
            equation, *operands = node.args
            if len(operands) == 1 and isinstance(operands[0], tuple | list):
                operands = list(operands[0])
            terms, _, out = str(equation).replace(" ", "").partition("->")
            parts = terms.split(",")
            if len(operands) != 2 or not out or "..." in terms:
                for operand in operands:
                    self._channels.fix(self._planes(operand), "what einsum() does with them")
                return ()
            return self._contract(parts[0], operands[0], parts[1], operands[1], out)
        first, second = node.args[:2]
        if min(self._values[a].ndim for a in (first, second)) < 2:  # type: ignore[index]
            for operand in (first, second):
                self._channels.fix(self._planes(operand), f"what {name}() does with them")
            return ()
        return self._contract("...ij", first, "...jk", second, "...ik")

    def _contract(
        self,
        first_term: str,
        first: Any,
        second_term: str,
        second: Any,
        out: str,
    ) -> Planes:
        """A product with sums over the letters that `out` lacks; `...` stands for leading axes."""
        sides = [
            (_letters(term, self._values[node].ndim), self._planes(node))
            for term, node in ((first_term, first), (second_term, second))
            if node is not None
        ]
        lead = max((len([c for c in letters if c.isupper()]) for letters, _ in sides), default=0)
        target = _letters(out, lead + len(out.replace("...", "")))
        contracted: list[list[tuple[str, torch.Tensor]]] = [[], []]
        kept: list[torch.Tensor] = []
        for index, (letters, planes) in enumerate(sides):
            others = sides[1 - index][0] if len(sides) == 2 else letters
            for plane in planes:
                own = "".join(letters[axis] for axis in varying_axes(plane))
                shared = [c for c in own if c in others and c in target]
                if shared and len(own) > len(shared):
                    self._trace.heads.append((plane, tuple(letters.index(c) for c in shared)))
                if set(own) <= set(target):
                    kept.append(_arranged(plane, letters, target))
                else:
                    contracted[index].append((own, plane))
        self._join_contracted(sides, contracted, target)
        return tuple(kept)

    def _join_contracted(
        self,
        sides: Sequence[tuple[str, Planes]],
        contracted: Sequence[Sequence[tuple[str, torch.Tensor]]],
        target: str,
    ) -> None:
        waiting = list(contracted[1])
        for own, plane in contracted[0]:
            # The same axes, or one side has fewer: keys of one head meet the queries of all.
            partner = next((p for p in waiting if set(p[0]) == set(own)), None) or next(
                (p for p in waiting if _summed(p[0], target) == _summed(own, target)), None
            )
            if partner is None:
                self._channels.fix([plane], "a product sums over them and something else")
                continue
            waiting.remove(partner)
            order = "".join(sorted({*own, *partner[0]}))
            self._channels.join(
                _arranged(plane, sides[0][0], order), _arranged(partner[1], sides[1][0], order)
            )
        for _, plane in waiting:
            self._channels.fix([plane], "a product sums over them and something else")


def _summed(letters: str, target: str) -> set[str]:
    """Axes that a product sums over."""
    return set(letters) - set(target)


def _letters(term: str, ndim: int) -> str:
    """Letters of each axis; leading axes of `...` are capitals, aligned at their end."""
    named = term.replace("...", "")
    lead = ndim - len(named)
    return "".join(chr(ord("Z") - lead + 1 + i) for i in range(lead)) + named


def _arranged(plane: torch.Tensor, letters: str, target: str) -> torch.Tensor:
    """A plane with its axes in the order of `target`, and length 1 where it has none."""
    axes = [letters.index(c) for c in target if c in letters]
    rest = [axis for axis in range(plane.ndim) if axis not in axes]
    moved = plane.permute(*axes, *rest).reshape([plane.shape[axis] for axis in axes])
    shape = iter(moved.shape)
    return moved.reshape([next(shape) if c in letters else 1 for c in target])
