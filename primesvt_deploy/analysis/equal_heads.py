"""Choice of the channels of a group that stay, equally many in each attention head."""

from __future__ import annotations

import torch

from primesvt_deploy.analysis.groups import Group

__all__ = ["keep_most_important"]


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
