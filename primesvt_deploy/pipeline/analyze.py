"""`analyze`: sizes, robustness, firing rates and energy of a model's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from primesvt_deploy.analysis.cost import Cost, ShippedSize, measure_cost
from primesvt_deploy.analysis.energy import EnergyEstimate, estimate_energy
from primesvt_deploy.analysis.firing import FiringRate, measure_firing_rates
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.ahead import analysis_ahead
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.dense_accuracy import measure_dense
from primesvt_deploy.pipeline.image_sets import decoded_once
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.progress import AUTOMATIC, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.robustness import Curve, measure_robustness
from primesvt_deploy.settings import ComputeSettings, SearchSettings
from primesvt_deploy.summary import Shown, Summary, megabytes
from primesvt_deploy.summary.charts import bars

__all__ = ["Analysis", "analyze"]

_FIRING_IMAGES = 256


@dataclass(frozen=True, kw_only=True, repr=False)
class Analysis(Shown):
    """Sizes, robustness, firing rates and energy of one model.

    Args:
        name: of the model.
        cost: parameters and MACs.
        layer_bytes: bytes of the weights of every layer, norms folded in, as float32.
        curves: robustness of every layer, largest first.
        firing: firing rates of every neuron layer, in the model's order.
        energy: an estimate from firing rates, over the same images.
        dense: top-1 of the dense model on the search split.
        left: layers of a user's own module whose channels cannot leave, and why.
    """

    name: str
    cost: Cost
    layer_bytes: Mapping[str, int]
    curves: tuple[Curve, ...]
    firing: tuple[FiringRate, ...]
    energy: EnergyEstimate
    dense: Accuracy
    left: Mapping[str, str]

    def _summary(self) -> Summary:
        cost, firing = self.cost, self.firing
        silent = sum(layer.silent for layer in firing)
        channels = sum(layer.channels for layer in firing)
        rates = [layer.rate for layer in firing] or [0.0]
        targets = sum(curve.is_target for curve in self.curves)
        return Summary(
            f"Analysis of {self.name}",
            (
                ("size", f"{cost.parameters:,} parameters, "
                         f"{megabytes(cost.shipped_bytes)} to ship"),
                ("work", f"{cost.macs / 1e6:,.0f} M multiply-accumulates an image"),
                ("search top-1", str(self.dense)),
                ("robustness", f"{targets} of {len(self.curves)} groups can lose channels"),
                ("firing", f"rates of {min(rates):.1%} to {max(rates):.1%}; {silent} of "
                           f"{channels:,} channels are silent"),
                ("energy", f"{self.energy.microjoules:.3g} uJ an image, an estimate"),
            ),
            partial(bars, {layer: count / 1e6 for layer, count in self.layer_bytes.items()},
                    title="weights as float32, MB"),
        )  # fmt: skip


@drawn_by_default
def analyze(
    model: SViT,
    settings: SearchSettings | None = None,
    *,
    data: DataSet | None = None,
    compute: ComputeSettings = ComputeSettings(),
    progress: Progress = AUTOMATIC,
) -> Analysis:
    """Layer sizes, robustness, firing rates and energy of `model`, on the search split.

    Args:
        model: a trained SViT.
        settings: rates, images, constraint; the defaults if None.
        data: default: the data bundled with the model.
        compute: where it computes.
        progress: gets each step; default: a bar on a terminal or in a notebook, elsewhere nothing;
            `SILENT`: nothing.

    Raises:
        DataError: the model comes with no data and none is given.
        SettingsError: a device that is not there.
    """
    chosen = settings or SearchSettings()
    splits = decoded_once(data or open_data(model, seed=chosen.seed), chosen, None, progress)
    with search_context(
        model, chosen, splits, compute=compute, progress=progress, ahead=analysis_ahead
    ) as context:
        return _analysis(context)


def _analysis(context: SearchContext) -> Analysis:
    """The stages of an analysis."""
    model, progress, settings = context.model, context.progress, context.settings
    measure_dense(context)
    context.recovery.prepare(progress)
    curves = measure_robustness(
        context.judge,
        context.prunable.groups,
        context.space.by_norm,
        AccuracyConstraint(settings.max_drop),
        rates=settings.rates,
        limit=settings.robustness_images,
        progress=progress,
    )
    progress.stage("firing rates", 1)
    sample = context.image_sets().search.first(_FIRING_IMAGES)
    firing = measure_firing_rates(model, sample, device=context.device, progress=progress)
    progress.step()
    progress.stage("energy estimate", 1)
    energy = estimate_energy(model, sample, device=context.device, progress=progress)
    progress.step(f"{energy.microjoules:.4g} uJ an image")
    return Analysis(
        name=model.name,
        cost=measure_cost(model),
        layer_bytes=ShippedSize(model, ()).by_layer({}),
        curves=curves,
        firing=firing,
        energy=energy,
        dense=context.judge.dense(),
        left=context.prunable.left,
    )
