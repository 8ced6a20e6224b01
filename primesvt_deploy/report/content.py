"""The content of a report beside the manifest: everything that its figures show.

A build writes it into the bundle as `report.json`; `report` reads it there. Sizes are bytes,
rates and shares lie between 0 and 1, drops are percentage points of top-1, energies picojoules.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "SCHEMA",
    "ClassifiedImage",
    "ConfusedPair",
    "LayerBytes",
    "LayerEnergy",
    "LayerFiring",
    "MemoryStage",
    "ReportContent",
    "SampleImage",
    "Sensitivity",
    "SpikeRaster",
    "TriedPlan",
]

SCHEMA = "primesvt-report/1"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the content: immutable, without fields of others."""


class LayerBytes(_Part):
    """Bytes of one weight layer; the layers are disjoint and sum to all weights.

    Args:
        layer: name of the module.
        group: the pruning group that its output channels belong to; empty: they cannot leave.
        dense, shipped: bytes of its weights and biases, as each model's file stores them.
    """

    layer: str
    group: str = ""
    dense: int
    shipped: int


class Sensitivity(_Part):
    """What a policy measured of a group, one number a rate.

    Args:
        group: name of the group.
        rates: shares of its channels removed.
        values: the measure at each rate.
    """

    group: str
    rates: tuple[float, ...]
    values: tuple[float, ...]


class TriedPlan(_Part):
    """One candidate that the search evaluated.

    Args:
        step: `robustness`, or the name of the policy.
        group: the group that was varied; empty where several were.
        rate: share of its channels removed.
        bytes: predicted bytes of what the budget counts.
        drop: points lost on the `n` search images that it was judged on.
        low, high: the drop's 95% interval.
        n: search images seen.
        stopped_early: given up before all of them.
        accepted: on the way to the plan that was chosen.
    """

    step: str
    group: str = ""
    rate: float
    bytes: int
    drop: float
    low: float
    high: float
    n: int
    stopped_early: bool
    accepted: bool


class MemoryStage(_Part):
    """Resident memory of a fresh process after one stage of a run; None: not measured.

    Args:
        stage: such as `import`, `load`, `first run`.
        dense, shipped: bytes at the end of the stage.
    """

    stage: str
    dense: int | None
    shipped: int | None


class LayerEnergy(_Part):
    """Energy estimate of one operation's layer for one image, pJ.

    Args:
        layer: name of the module.
        dense, shipped: picojoules; None: the model has no such operation.
    """

    layer: str
    dense: float | None
    shipped: float | None


class LayerFiring(_Part):
    """Spikes of one neuron layer over `report` images.

    Args:
        layer: name of the neuron layer.
        dense, shipped: mean firing rate a neuron and timestep; None: the model has no such layer.
        by_timestep: of the shipped model, a rate for each timestep.
        channels: of the shipped model.
        silent, constant: of these, those that never fire and those that always do.
    """

    layer: str
    dense: float | None
    shipped: float | None
    by_timestep: tuple[float, ...]
    channels: int
    silent: int
    constant: int


class SpikeRaster(_Part):
    """Spikes of one neuron layer of the shipped model for the sample image.

    Args:
        layer: name of the neuron layer.
        rates: for each timestep, the mean over positions of each shown channel's spikes.
    """

    layer: str
    rates: tuple[tuple[float, ...], ...]


class SampleImage(_Part):
    """One image as the shipped model sees it.

    Args:
        image: PNG or JPEG, encoded in base64, with its media type: a `data:` URL.
        label: its class; `predicted` the shipped model's.
        probability: of the predicted class.
        rasters: of some neuron layers, the first in the model first.
        attention: mean over heads and timesteps of the last attention block's spikes summed over
            channels, rows of the token grid; empty: the model has no such block or grid.
        attention_layer: name of the module that it is of.
    """

    image: str
    label: str
    predicted: str
    probability: float
    rasters: tuple[SpikeRaster, ...] = ()
    attention: tuple[tuple[float, ...], ...] = ()
    attention_layer: str = ""


class ConfusedPair(_Part):
    """Held-out images of one class that were taken for one class (itself, too).

    Args:
        label, predicted: indices into the classes.
        dense, shipped: how many images.
    """

    label: int
    predicted: int
    dense: int
    shipped: int


class ClassifiedImage(_Part):
    """A held-out image that the dense model gets right and the shipped one does not.

    Args:
        index: of the image in the held-out split.
        image: a `data:` URL.
        label: its class, which the dense model predicts.
        dense_probability: that the dense model gives it.
        predicted: the shipped model's class.
        shipped_probability: that the shipped model gives `predicted`.
    """

    index: int
    image: str
    label: str
    dense_probability: float
    predicted: str
    shipped_probability: float


class ReportContent(_Part):
    """Everything that a report shows and the manifest does not have; empty where not measured.

    Args:
        schema: of this content.
        layers: bytes by layer, in the model's order.
        tried: every candidate of the search.
        sensitivity: of a policy that measures one; `sensitivity_of` says what its values are.
        memory: of the dense and the shipped artifact, stage by stage.
        energy: estimates by layer, from firing rates.
        firing: spikes by neuron layer; `firing_images` is how many images they are means of.
        sample: an image, its spikes and its attention.
        classes: names of the classes.
        confusion: only pairs that occurred.
        lost: up to a dozen images that pruning lost.
    """

    schema: str = SCHEMA
    layers: tuple[LayerBytes, ...] = ()
    tried: tuple[TriedPlan, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    sensitivity_of: str = ""
    memory: tuple[MemoryStage, ...] = ()
    energy: tuple[LayerEnergy, ...] = ()
    firing: tuple[LayerFiring, ...] = ()
    firing_images: int = 0
    sample: SampleImage | None = None
    classes: tuple[str, ...] = ()
    confusion: tuple[ConfusedPair, ...] = ()
    lost: tuple[ClassifiedImage, ...] = ()
