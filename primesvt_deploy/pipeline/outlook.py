"""Predict how a build ends, as far as sizes tell: in a second, before its long stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.model.stored_frontier import StoredFrontier, stored_frontier
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pruning.plan import kept_width
from primesvt_deploy.settings import BudgetOn, BuildSettings, Precision

__all__ = ["RATES", "Outlook", "outlook_of"]

RATES = (0.0, 0.25, 0.5, 0.75)
"""Shares of each layer's channels that leave, for the sizes that are shown."""
_OF_A_FILE, _OF_A_LAYER = 65_536, 8_192
"""Bytes, generously, of an artifact and of each of its layers beside weights."""
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Sizes within reach, before anything is exported or evaluated.

    Args:
        budget_bytes: that are allowed.
        on_file: whether they are of a file, which has more than its weights, or of weights.
        precision: the first of those to be tried in which the dense model fits the budget; None:
            in none of them, as far as is known without an export.
        reachable: whether `smallest_bytes` are within the budget.
        sizes: bytes of weights, by precision: a row of `RATES` each.
        smallest_bytes: of weights, where each layer keeps a channel a head, in the smallest of the
            precisions to be tried.
        known: what was measured of this model before; None: nothing.
    """

    budget_bytes: int
    on_file: bool
    precision: Precision | None
    reachable: bool
    sizes: dict[Precision, tuple[int, ...]]
    smallest_bytes: int
    known: StoredFrontier | None

    @property
    def decided(self) -> bool:
        """Whether it is clear before any search how the build ends."""
        return self.precision is not None or not self.reachable


def outlook_of(
    context: SearchContext, settings: BuildSettings, *, dense_bytes: int | None = None
) -> Outlook | None:
    """The outlook of a build; None where sizes do not tell: of resident memory, or no budget.

    Args:
        context: of the search.
        settings: budget and precision.
        dense_bytes: of the dense model's file, of which a share may have to leave; None: it was not
            exported, and its weights stand for it.
    """
    if settings.smallest or settings.budget_on is BudgetOn.RSS:
        return None
    model, groups = context.model, context.prunable.groups
    multiple = settings.search.channel_multiple
    predictors = {each: _predictor(model, groups, each) for each in Precision}
    sizes = {
        each: tuple(size.bytes(_widths(groups, rate, multiple)) for rate in RATES)
        for each, size in predictors.items()
    }
    on_file = settings.budget_on is BudgetOn.FILE
    layers = sum(isinstance(layer, _WEIGHTED) for layer in model.module.modules())
    beside = _OF_A_FILE + _OF_A_LAYER * layers if on_file else 0
    weights = sizes[Precision.FP32][0]
    budget = settings.budget_bytes(dense_bytes if on_file and dense_bytes else weights)
    narrowest = _widths(groups, 1.0, multiple)
    smallest = min(predictors[each].bytes(narrowest) for each in settings.precisions)
    fitting = (each for each in settings.precisions if sizes[each][0] + beside <= budget)
    source = model.source
    return Outlook(
        budget_bytes=budget,
        on_file=on_file,
        precision=next(fitting, None),
        reachable=smallest <= budget,
        sizes=sizes,
        smallest_bytes=smallest,
        known=stored_frontier(source.sha256) if source is not None else None,
    )


def _predictor(model: SViT, groups: Sequence[Group], precision: Precision) -> ShippedSize:
    """Predicts sizes in a precision, about: what reaches a layer decides its bits, see `quantize`.

    The first layer and the classifiers stay float32, grouped convolutions have 8 bits at least.
    """
    if precision is Precision.FP32:
        return ShippedSize(model, groups)
    layers = [(n, layer) for n, layer in model.module.named_modules()
              if isinstance(layer, _WEIGHTED)]  # fmt: skip
    bits = {
        name: precision.bits if getattr(layer, "groups", 1) == 1 else max(precision.bits, 8)
        for name, layer in layers[1:]
        if name not in model.module.classifiers
    }
    return ShippedSize(model, groups, bits)


def _widths(groups: Sequence[Group], rate: float, multiple: int) -> dict[str, int]:
    """Channels that are left of each group, by its name, at one rate for all."""
    return {group.name: kept_width(group, rate, multiple=multiple) for group in groups}
