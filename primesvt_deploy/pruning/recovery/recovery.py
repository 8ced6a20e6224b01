"""Recovery without gradients: a pruned model is corrected by statistics of calibration images.

Steps, by name, each by itself or together:

- `free`: constant channels leave before all others (`constant_channels`);
- `bias`: the biases of a removed channel's consumer layers take up its mean (`least_squares`);
- `refit`: so do those layers' weights, by least squares; includes `bias` (`least_squares`);
- `norms`: batch norms behind everything that changed are re-estimated (`batchnorm`);
- `head`: the classifier is refitted to the features of the pruned network (`classifier`).
  Candidates go without; the plan that is decided on is tried with it.

All of it is done on the dense module with removed channels silenced; cutting it afterwards changes
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums, Moments, moments_of, sum_inputs
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.cut import silence
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.batchnorm import (
    NORMS,
    Received,
    matched_norms,
    recorded_norms,
)
from primesvt_deploy.pruning.recovery.classifier import (
    classifier_inputs,
    classifier_outputs,
    refit_classifiers,
)
from primesvt_deploy.pruning.recovery.least_squares import Refit

__all__ = ["CALIBRATION_IMAGES", "HEAD_IMAGES", "NORM_IMAGES", "Recovery"]

CALIBRATION_IMAGES = 256
NORM_IMAGES = 64
"""One batch, so that a norm's statistics are final when the layers behind it run."""
HEAD_IMAGES = 1024
"""Each gives one row alone to fit a classifier on."""


class Recovery:
    """Recovers pruned forms of one model.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        images: to calibrate on; `CALIBRATION_IMAGES` are enough.
        steps: names of the steps above.
        device: that it is done on.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        images: ImageList,
        steps: Collection[str],
        *,
        device: torch.device = CPU,
    ) -> None:
        self.model, self._groups, self._images = model, tuple(groups), images
        self._device = device
        self.steps = frozenset(steps)
        self.matches_norms = "norms" in self.steps
        self.sums_elsewhere: Callable[[int], Iterable[BatchSums]] | None = None
        """Gives the sums of so many `calibration_batches`, in order; None: they are summed here."""

    def prepare(self, progress: Progress = SILENT) -> None:
        """Measure what the steps need of the dense model, unless that is done; a stage of its own.

        Args:
            progress: gets the stage and its images.
        """
        if "moments" in self.__dict__ or not self.needs_moments:
            return
        progress.stage("calibration", 1)
        self.moments = self._measured(progress)
        progress.step()

    def use_moments(self, given: Callable[[], Moments]) -> None:
        """Take the moments as they were measured elsewhere, unless they are known here.

        Args:
            given: gives them; it is called only where they are needed.
        """
        if "moments" not in self.__dict__:
            self.moments = given().to(self._device)

    @property
    def needs_moments(self) -> bool:
        """Whether any of the steps rests on statistics of the dense model's inputs."""
        return bool(self.steps & {"bias", "refit", "free"})

    @cached_property
    def moments(self) -> Moments:
        """Statistics of the inputs of the dense model's layers, on the device."""
        return self._measured(SILENT)

    def _measured(self, progress: Progress) -> Moments:
        batches = self.calibration_batches
        if self.sums_elsewhere is not None:
            sums = self.sums_elsewhere(len(batches))
        else:
            sums = (self.sums_of(number) for number in range(len(batches)))
        return moments_of(self._lowered, _told(sums, batches, progress)).to(self._device)

    @property
    def calibration_images(self) -> ImageList:
        """The images that candidates are recovered on."""
        return self._images.first(CALIBRATION_IMAGES)

    @property
    def calibration_batches(self) -> list[tuple[int, int]]:
        """First and last (exclusive) image of each batch that moments are measured on."""
        size, count = self.model.batch_of(32), min(CALIBRATION_IMAGES, len(self._images))
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def sums_of(self, number: int) -> BatchSums:
        """Sums of one of `calibration_batches`, on the CPU."""
        batch = self._batch(*self.calibration_batches[number])
        return sum_inputs(self._lowered, self._groups, batch)

    @cached_property
    def state(self) -> torch.Tensor:
        """The calibration batch as the chain's first state."""
        count = max(2, self.model.batch_of(NORM_IMAGES))
        return self._base.fold(self.samples(count))

    def masked(self, plan: Plan) -> SpikingNetwork:
        """The dense network without the channels that leave, its consumer layers recovered.

        Its neurons are unrolled; its norms stand as they are and are not matched yet.
        """
        network = copy.deepcopy(self._base)
        self._prepare(network, plan)
        return network

    @torch.no_grad()
    def match(
        self,
        network: SpikingNetwork,
        state: torch.Tensor,
        start: int = 0,
        remember: Callable[[int, torch.Tensor], None] = lambda index, state: None,
    ) -> None:
        """Match the norms of `network` from segment `start` on, whose entrance `state` is.

        Args:
            network: of `masked`.
            state: what the calibration batch is at that segment.
            start: index of the segment.
            remember: called with the state at the entrance of each segment.
        """
        with matched_norms(network, self._dense_norms):
            for index, segment in enumerate(network.segments()):
                if index >= start:
                    remember(index, state)
                    state = segment.run(state)

    @torch.no_grad()
    def recovered(
        self, plan: Plan, *, head: bool = False, progress: Progress = SILENT
    ) -> SpikingNetwork:
        """The dense module without the channels that leave, recovered; on the CPU, ready to be cut.

        Args:
            plan: channels that stay.
            head: refit the classifier as well; the other steps are those of candidates.
            progress: gets the images that a classifier is refitted on; no step.
        """
        module = copy.deepcopy(self.model.module).to(self._device)
        self._prepare(module, plan)
        if self.matches_norms and plan.kept:
            network = self.masked(plan)
            self.match(network, self.state)
            for name, norm in network.named_modules():
                if isinstance(norm, NORMS):
                    module.get_submodule(name).load_state_dict(norm.state_dict())
        if head and plan.kept:
            if "_dense_outputs" not in self.__dict__:
                self._dense_outputs = self._outputs_of_dense(progress)
            batches = self._batches(HEAD_IMAGES, progress, passes=2, passed=1)
            inputs = classifier_inputs(lower_module(module), batches)
            refit_classifiers(module, inputs, self._dense_outputs)
        return module.cpu()

    def _prepare(self, network: SpikingNetwork, plan: Plan) -> None:
        if self._refit is not None:
            self._refit.apply(network, plan)
        kept = plan.as_dict()
        for group in self._groups:
            if group.name in kept:
                # What is left of a group that never spikes is silenced as well: the artifact can
                # do without the whole branch (`lowering.fold_constants`).
                staying = () if group.name in self._dead else kept[group.name]
                silence(network, group, staying)

    @cached_property
    def _dead(self) -> frozenset[str]:
        """Groups in which calibration saw no spike at all."""
        if "free" not in self.steps:
            return frozenset()
        seen = self.moments.inputs
        return frozenset(
            group.name
            for group in self._groups
            if group.inputs
            and all(name in seen and not bool(seen[name].high.any()) for name in group.inputs)
            and not any(bool(seen[name].low.any()) for name in group.inputs)
        )

    @cached_property
    def _base(self) -> SpikingNetwork:
        return lower_module(self.model.module, fold_norms=False).to(self._device)

    @cached_property
    def _refit(self) -> Refit | None:
        if not self.steps & {"bias", "refit", "free"}:
            return None
        return Refit(
            self._groups,
            self.moments,
            weights="refit" in self.steps,
            means=bool(self.steps & {"bias", "refit"}),
        )

    @cached_property
    def _dense_norms(self) -> dict[str, Received]:
        with recorded_norms(self._base) as found, torch.no_grad():
            state = self.state
            for segment in self._base.segments():
                state = segment.run(state)
        return found

    @cached_property
    def _lowered(self) -> SpikingNetwork:
        """The dense network, lowered."""
        return lower_module(self.model.module).to(self._device)

    @cached_property
    def _dense_outputs(self) -> dict[str, torch.Tensor]:
        """Logits of the dense model's classifiers on the calibration images, by name."""
        return self._outputs_of_dense(SILENT)

    def _outputs_of_dense(self, progress: Progress) -> dict[str, torch.Tensor]:
        batches = self._batches(HEAD_IMAGES, progress, passes=2)
        inputs = classifier_inputs(self._lowered, batches)
        return classifier_outputs(self._lowered, inputs)

    def _batches(
        self, most: int, progress: Progress = SILENT, *, passes: int = 1, passed: int = 0
    ) -> Iterator[torch.Tensor]:
        """The first images, in one of several `passes` over them, of which some are done."""
        size, count = self.model.batch_of(32), min(most, len(self._images))
        for start in range(0, count, size):
            yield self._batch(start, min(start + size, count))
            done = passed * count + min(start + size, count)
            progress.advance(done, passes * count)

    def samples(self, count: int) -> torch.Tensor:
        """The first calibration samples, as the network takes them."""
        return self._batch(0, min(count, len(self._images)))

    def _batch(self, start: int, stop: int) -> torch.Tensor:
        return time_first(torch.from_numpy(self._images.inputs(start, stop))).to(self._device)


def _told(
    sums: Iterable[BatchSums], batches: Sequence[tuple[int, int]], progress: Progress
) -> Iterator[BatchSums]:
    """The sums of the batches; the images that are done are told."""
    for found, (_, stop) in zip(sums, batches, strict=True):
        yield found
        progress.advance(stop, batches[-1][1])
