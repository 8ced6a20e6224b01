"""What sizes alone tell of a build, before its long stages."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from small_models import SHALLOW, make_model

from primesvt_deploy.analysis.cost import ShippedSize, measure_cost
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.cli.tables.outlook import next_options, print_outlook
from primesvt_deploy.model.source import Source
from primesvt_deploy.model.stored_frontier import MeasuredDrop, StoredFrontier
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline import outlook as outlooks
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.pipeline.outlook import Outlook, outlook_of
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import BudgetOn, BuildSettings, Precision, Runtime


def foreseen(model: SViT, settings: BuildSettings) -> Outlook:
    found = outlook_of(unjudged_context(model, settings.search, None), settings)
    assert found is not None
    return found


def test_sizes_are_those_of_models_and_artifacts(model: SViT, tmp_path: Path) -> None:
    found = foreseen(model, BuildSettings(budget_mb=20.0))
    assert found.sizes[Precision.FP32][0] == measure_cost(model).shipped_bytes
    for precision in (Precision.INT8, Precision.INT4):
        quantized = quantize(model, precision.bits)
        artifact = export_onnx(quantized, tmp_path / f"{precision}.onnx", precision=precision)
        shipped = ShippedSize(quantized, (), artifact.weight_bits).bytes({})
        assert found.sizes[precision][0] == shipped
    assert all(list(sizes) == sorted(sizes, reverse=True) for sizes in found.sizes.values())


def test_half_of_the_channels_is_what_a_cut_leaves(model: SViT) -> None:
    groups = unjudged_context(model, BuildSettings(saving=1.0).search, None).prunable.groups
    plan = Plan()
    for group in groups:
        each = group.width // group.heads
        kept = [h * each + c for h in range(group.heads) for c in range(-(-each // 2))]
        plan = plan.replacing(group.name, tuple(kept))
    halved = foreseen(model, BuildSettings(saving=1.0)).sizes[Precision.FP32][2]
    assert (
        halved == measure_cost(replace(model, module=cut(model.module, groups, plan))).shipped_bytes
    )


def test_whether_a_budget_is_met_by_size_alone(model: SViT) -> None:
    dense = measure_cost(model).shipped_bytes
    whole = foreseen(model, BuildSettings(budget_mb=20.0))
    assert whole.precision is Precision.FP32 and whole.reachable and whole.decided
    pruned = foreseen(model, BuildSettings(saving=30.0, budget_on=BudgetOn.PARAMS))
    assert pruned.precision is None and pruned.reachable and not pruned.decided
    assert pruned.budget_bytes == int(0.7 * dense)
    hopeless = foreseen(model, BuildSettings(budget_mb=1e-4, budget_on=BudgetOn.PARAMS))
    assert not hopeless.reachable and hopeless.decided
    assert 100 < hopeless.smallest_bytes < dense
    exactly = BuildSettings(budget_mb=dense / 1e6, budget_on=BudgetOn.PARAMS)
    assert foreseen(model, exactly).precision is Precision.FP32
    native = BuildSettings(
        saving=30.0, budget_on=BudgetOn.PARAMS, runtime=Runtime.NATIVE, precision=None
    )
    assert foreseen(model, native).precision is Precision.INT8
    resident = BuildSettings(budget_mb=200.0, budget_on=BudgetOn.RSS)
    assert outlook_of(unjudged_context(model, resident.search, None), resident) is None


def point(size: int, lost: float) -> MeasuredDrop:
    return MeasuredDrop(weight_bytes=size, points=lost, low=lost - 0.5, high=lost + 0.5, n=5000)


KNOWN = StoredFrontier(
    policy="greedy",
    data="cifar10",
    top1_percent=81.5,
    points=(point(3_000_000, 0.2), point(2_000_000, 0.9), point(1_000_000, 4.0)),
    precisions={"int8": point(1_250_000, 0.3)},
)


def outlook(**changes: object) -> Outlook:
    sizes = {Precision.FP32: 5_000_000, Precision.INT8: 1_250_000, Precision.INT4: 700_000}
    values = {
        "budget_bytes": 20_000_000,
        "on_file": True,
        "precision": Precision.FP32,
        "reachable": True,
        "sizes": {each: (size, size // 2, size // 4, size // 8) for each, size in sizes.items()},
        "smallest_bytes": 50_000,
        "known": KNOWN,
    }
    return Outlook(**{**values, **changes})  # type: ignore[arg-type]


def shown(found: Outlook) -> str:
    out = io.StringIO()
    print_outlook(Console(file=out, width=80), found, "primesvt-deploy build")
    return out.getvalue()


def test_sizes_losses_and_the_next_command_are_shown() -> None:
    text = shown(outlook())
    assert text.startswith("Nothing has to be pruned: as fp32 the weights have 5.00 MB, 20.00 MB")
    assert "2.00" in text and "-0.90 [-1.40, -0.40]" in text and "int8, not pruned" in text
    assert text.strip().endswith("primesvt-deploy build")
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert "Measured before" not in shown(outlook(known=None))
    far = shown(outlook(precision=None, reachable=False, budget_bytes=20_000))
    assert far.startswith("Out of reach: 0.0200 MB are allowed, and with a single channel")


@pytest.mark.parametrize(
    ("found", "most", "expected"),
    [
        # The smallest point that loses a point at most, and no more than is allowed.
        (outlook(), 3.0, {"budget_mb": "2.1", "policy": "greedy"}),
        (outlook(), 0.5, {"budget_mb": "3.1", "policy": "greedy"}),
        (outlook(), 0.0, {"saving": "50", "budget_mb": None}),
        (outlook(on_file=False), None, {"budget_mb": "2"}),
        (outlook(precision=Precision.INT8), 3.0, {"budget_mb": "0.6"}),
        (outlook(known=None), 3.0, {"saving": "50", "policy": "greedy"}),
        (outlook(known=None, precision=Precision.INT8), 3.0, {"saving": "88"}),
        (
            outlook(precision=None, reachable=False, smallest_bytes=900_000, budget_bytes=500_000),
            3.0,
            {"budget_mb": "0.5", "precision": "auto"},
        ),
        (
            outlook(precision=None, reachable=False, smallest_bytes=900_000, budget_bytes=50_000),
            3.0,
            {"budget_mb": "1.3"},
        ),
    ],
)
def test_what_to_type_next(
    found: Outlook, most: float | None, expected: dict[str, str | None]
) -> None:
    options = next_options(found, most)
    assert options["force"] is True
    assert {name: options.get(name) for name in expected} == expected


def test_a_frontier_is_known_by_the_digest_of_the_weights(
    model: SViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def known(sha256: str) -> StoredFrontier:
        asked.append(sha256)
        return KNOWN

    monkeypatch.setattr(outlooks, "stored_frontier", known)
    assert foreseen(model, BuildSettings(budget_mb=20.0)).known is None
    sourced = replace(model, source=Source("w.pth", "5" * 64, 7))
    assert foreseen(sourced, BuildSettings(budget_mb=20.0)).known == KNOWN
    assert asked == ["5" * 64]


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_model(SHALLOW)
