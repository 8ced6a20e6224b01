"""`analyze`: sizes, robustness, firing rates and energy of a model's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primesvt_deploy.analysis.cost import Cost, measure_cost
from primesvt_deploy.analysis.energy import EnergyEstimate, estimate_energy
from primesvt_deploy.analysis.firing import FiringRate, measure_firing_rates
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import search_context
from primesvt_deploy.pipeline.prune import make_search
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.robustness import Curve
from primesvt_deploy.settings import SearchSettings

__all__ = ["Analysis", "analyze"]

_FIRING_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Sizes, robustness, firing rates and energy of one model.

    Args:
        cost: parameters and MACs.
        curves: robustness of every layer, largest first.
        firing: firing rates of every neuron layer, in the model's order.
        energy: an estimate from firing rates, over the same images.
        dense: top-1 of the dense model on the search split.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    cost: Cost
    curves: tuple[Curve, ...]
    firing: tuple[FiringRate, ...]
    energy: EnergyEstimate
    dense: Accuracy
    left: Mapping[str, str]


def analyze(
    model: SViT,
    settings: SearchSettings | None = None,
    *,
    data: DataSet | None = None,
    progress: Progress = SILENT,
) -> Analysis:
    """Layer sizes, robustness, firing rates and energy of `model`, on the search split.

    Args:
        model: a trained SViT.
        settings: rates, images, constraint; the defaults if None.
        data: default: the data bundled with the model.
        progress: gets each step.

    Raises:
        DataError: the model comes with no data and none is given.
    """
    chosen = settings or SearchSettings()
    splits = data or open_data(model, seed=chosen.seed)
    context = search_context(model, chosen, splits, progress=progress)
    search = make_search(context, AccuracyConstraint(chosen.max_drop), size_of=lambda _: 0)
    curves = search.curves("l2", search.space.by_norm)
    progress.stage("firing rates", 1)
    sample = context.image_sets().search.first(_FIRING_IMAGES)
    firing = measure_firing_rates(model, sample)
    progress.step()
    progress.stage("energy estimate", 1)
    energy = estimate_energy(model, sample)
    progress.step()
    return Analysis(
        cost=measure_cost(model),
        curves=curves,
        firing=firing,
        energy=energy,
        dense=context.judge.dense(),
        left=context.prunable.left,
    )
