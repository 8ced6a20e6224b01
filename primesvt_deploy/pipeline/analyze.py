"""`analyze`: what can leave a model and what its absence costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primesvt_deploy.analysis.cost import Cost, measure_cost
from primesvt_deploy.analysis.energy import EnergyEstimate, estimate_energy
from primesvt_deploy.analysis.firing import FiringRate, measure_firing_rates
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.prune import calibration_images, make_judge, search_images
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.policies import Search
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.pruning.search.robustness import Curve
from primesvt_deploy.settings import SearchSettings

__all__ = ["Analysis", "analyze"]

_FIRING_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What can leave a model and what its absence costs.

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
        progress: told of each step.

    Raises:
        DataError: the model comes with no data and none is given.
    """
    chosen = settings or SearchSettings()
    splits = data or open_data(model, seed=chosen.seed)
    images = search_images(splits, chosen)
    prunable = prunable_groups(model)
    groups = prunable.groups
    recovery = Recovery(model, groups, calibration_images(splits, chosen), chosen.recover)
    judge = make_judge(model, groups, images, Ledger(), chosen, recovery)
    progress.stage("dense accuracy", 1)
    dense = judge.dense()
    progress.step(str(dense))
    search = Search(judge=judge, settings=chosen, size_of=lambda _: 0, progress=progress)
    curves = search.curves("l2", judge.choice())
    progress.stage("firing rates", 1)
    sample = images.first(_FIRING_IMAGES)
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
        dense=dense,
        left=prunable.left,
    )
