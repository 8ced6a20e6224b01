"""Tables of a model's sizes, robustness, firing rates and energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import DASH, make_console, print_notes, print_unpruned

if TYPE_CHECKING:
    from primesvt_deploy.analysis.energy import EnergyEstimate
    from primesvt_deploy.model.svit import SViT
    from primesvt_deploy.pipeline.analyze import Analysis
    from primesvt_deploy.settings import SearchSettings

__all__ = ["print_analysis"]


def print_analysis(model: SViT, found: Analysis, search: SearchSettings) -> None:
    """Print sizes and robustness, then firing rates and the energy of an image."""
    console = make_console()
    console.print(
        f"{model.name}: {found.cost.parameters:,} parameters, {found.cost.macs / 1e6:.0f} M MACs "
        f"an image over T={model.timesteps}, search top-1 {found.dense}",
    )
    print_notes(console, model.all_notes)
    rates = sorted({point.rate for curve in found.curves for point in curve.points})
    robustness = Table(
        "layer",
        "size",
        "width",
        *(f"{rate:.0%}" for rate in rates),
        "up to",
        title=f"Points of top-1 lost when a layer is pruned alone (limit {_limit(search)})",
    )
    for curve in found.curves:
        by_rate = {point.rate: point for point in curve.points}
        cells = [
            _drop_cell(by_rate[r].drop.points, r in curve.within) if r in by_rate else DASH
            for r in rates
        ]
        deepest = f"{max(curve.within):.0%}" if curve.within else "not a target"
        size = f"{curve.group.size:,}"
        robustness.add_row(curve.group.name, size, str(curve.group.width), *cells, deepest)
    console.print(robustness)
    print_unpruned(console, found.left)
    firing = Table("neuron layer", "firing rate", "silent channels", title="Firing rates")
    for layer in found.firing:
        firing.add_row(layer.layer, f"{layer.rate:.2%}", f"{layer.silent} of {layer.channels}")
    console.print(firing)
    _print_energy(console, found.energy)


def _print_energy(console: Console, energy: EnergyEstimate) -> None:
    from primesvt_deploy.analysis.energy import ACCUMULATE_PICOJOULES, MAC_PICOJOULES

    table = Table(
        "layer", "M MACs if dense", "spikes", "uJ", title="Operations and energy of an image"
    )
    for layer in energy.layers:
        table.add_row(
            layer.layer,
            _three_digits(layer.macs / 1e6),
            "float" if layer.rate is None else f"{layer.rate:.3f}",
            _three_digits(layer.picojoules / 1e6),
        )
    console.print(table)
    microjoules, dense = map(_three_digits, (energy.microjoules, energy.all_macs_microjoules))
    accumulates, macs = (_three_digits(count / 1e6) for count in (energy.accumulates, energy.macs))
    console.print(
        f"Energy, an estimate ({MAC_PICOJOULES} pJ a MAC, {ACCUMULATE_PICOJOULES} pJ an "
        f"accumulate, 45 nm; Horowitz 2014): {microjoules} uJ an image: {accumulates} M "
        f"accumulates, {macs} M MACs; were every operation a MAC: {dense} uJ",
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _limit(search: SearchSettings) -> str:
    return "off" if search.max_drop is None else f"{search.max_drop:g}"


def _drop_cell(points: float, within: bool) -> str:
    return f"[green]{points:.1f}[/green]" if within else f"[red]{points:.1f}[/red]"
