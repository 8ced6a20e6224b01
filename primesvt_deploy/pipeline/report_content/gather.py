"""Gather the content of a report from a build's findings; what cannot be gathered is left empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.errors import DeployError, type_and_message
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.manifest import Findings
from primesvt_deploy.pipeline.report_content.held_out import confused_pairs, lost_images
from primesvt_deploy.pipeline.report_content.layers import layer_bytes
from primesvt_deploy.pipeline.report_content.memory import memory_stages
from primesvt_deploy.pipeline.report_content.sample import sample_image
from primesvt_deploy.pipeline.report_content.spikes import layer_energy, layer_firing
from primesvt_deploy.pipeline.report_content.tried_plans import sensitivities, tried_plans
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.report.content import MemoryStage, ReportContent

__all__ = ["gather_content"]

_FIRING_IMAGES, _FEWEST_IMAGES = 64, 8
"""Images that rates are means over: fewer large ones, which have more positions each."""
_DIVERGENCE = (
    "divergence of the class probabilities from the dense model's (Kullback-Leibler, nats), with "
    "that group alone narrowed"
)
_FAILURES = (DeployError, RuntimeError, ValueError, LookupError, OSError)
"""Ways in which a model that is built may still not be measured: torch raises RuntimeErrors."""
_Found = TypeVar("_Found")


def gather_content(
    context: BuildContext, findings: Findings, staged: StagedArtifact
) -> ReportContent:
    """Gather the content of a report.

    The bundle is whole without it: a part that fails on an unusual model is left empty, and a
    note says why.

    Args:
        context: of the build.
        findings: of its stages.
        staged: the shipped model in the bundle's directory.
    """
    return _Gathering(context, findings, staged).content()


class _Gathering:
    """One build's gathering, with the notes of what failed."""

    def __init__(self, context: BuildContext, findings: Findings, staged: StagedArtifact) -> None:
        self._context, self._findings, self._staged = context, findings, staged
        self._notes: list[str] = []
        self._shipped = context.model if staged.is_dense else findings.chosen.quantized

    def content(self) -> ReportContent:
        """All parts."""
        context, chosen = self._context, self._findings.chosen
        groups, ledger = context.search.prunable.groups, context.search.ledger
        count = max(context.model.batch_of(_FIRING_IMAGES), _FEWEST_IMAGES)
        images = context.images.search.first(count)
        models, device = (context.model, self._shipped), context.device
        labels = self._findings.evaluation.labels
        names = context.model.labels
        found = self._findings.evaluation.predictions
        predictions = (found["dense"], found["shipped"])
        context.progress.stage("content of the report", 5, "parts")
        layers = layer_bytes(*models, chosen.exported, groups)
        curves = sensitivities(ledger, groups)
        memory = self._part("memory", self._memory)
        firing = self._part("firing rates", lambda: layer_firing(*models, images, device))
        energy = self._part("energy", lambda: layer_energy(*models, images, device))
        sample = self._part("sample image", lambda: sample_image(self._shipped, images))
        held_out = context.held_out
        lost = self._part("lost images", lambda: lost_images(held_out, *predictions, names))
        return ReportContent(
            layers=layers,
            tried=tried_plans(ledger, chosen.steps, groups, chosen.size.predicted_bytes),
            sensitivity=curves,
            sensitivity_of=_DIVERGENCE if curves else "",
            memory=memory or (),
            energy=energy or (),
            firing=firing or (),
            firing_images=len(images) if firing or energy else 0,
            sample=sample,
            classes=tuple(on_one_line(name) for name in names),
            confusion=confused_pairs(labels, *predictions, len(names)),
            lost=lost or (),
            notes=tuple(self._notes),
        )

    def _memory(self) -> tuple[MemoryStage, ...]:
        return memory_stages(self._findings.dense, self._staged, self._context.settings.threads)

    def _part(self, name: str, gather: Callable[[], _Found]) -> _Found | None:
        """A part of the content; None where it fails, and a note says so."""
        try:
            return gather()
        except _FAILURES as error:
            self._notes.append(on_one_line(f"{name}: not gathered ({type_and_message(error)})"))
            return None
        finally:
            self._context.progress.step(name)
