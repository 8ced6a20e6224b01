"""Choice of the channels of a group that stay, equally many in each attention head."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.analysis.groups import Group

__all__ = ["equal_heads", "keep_most_important"]


def keep_most_important(importance: torch.Tensor, group: Group, keep: int) -> tuple[int, ...]:
    """Indices, ascending, of the `keep` most important channels, equally many in each head.

    Args:
        importance: `[width]`; larger stays. Ties go to the lower index.
        group: the group, whose heads are equal slices of its width.
        keep: channels that stay, a multiple of `group.heads`.
    """
    per_head = keep // group.heads
    head_width = group.width // group.heads
    kept: list[int] = []
    for head in range(group.heads):
        scores = importance[head * head_width : (head + 1) * head_width]
        order = torch.argsort(scores, descending=True, stable=True)[:per_head]
        kept.extend(head * head_width + int(i) for i in order)
    return tuple(sorted(kept))


def equal_heads(group: Group, removed: Set[int], multiple: int) -> list[int]:
    """Indices, ascending, of the channels that stay so that every head keeps equally many.

    Heads that would keep fewer get back channels, those of lower index first, up to the head that
    keeps most, rounded up to a multiple.

    Args:
        group: the group, whose heads are equal slices of its width.
        removed: channels that should leave.
        multiple: each head keeps a multiple of this many channels, or all it has.
    """
    width = group.width // group.heads
    heads = [range(h * width, (h + 1) * width) for h in range(group.heads)]
    staying = max(sum(i not in removed for i in head) for head in heads)
    keep = min(-(-max(staying, 1) // multiple) * multiple, width)
    kept: list[int] = []
    for head in heads:
        kept.extend(sorted(head, key=lambda i: (i in removed, i))[:keep])
    return sorted(kept)
