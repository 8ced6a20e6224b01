"""The content of a report beside the manifest: everything that its figures show.

A build writes it into the bundle as `report.json`; `report` reads it there. Sizes are bytes,
rates and shares lie between 0 and 1, drops are percentage points of top-1, energies picojoules.
It stays below a megabyte: there are at most 2000 candidates, 2000 pairs of confused classes where
there are more than a hundred classes, and a dozen small pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.files import read_regular, reason_of
from primesvt_deploy.errors import BundleError, first_line

__all__ = [
    "REPORT_CONTENT",
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
    "encode_content",
    "read_content",
]

REPORT_CONTENT = "report.json"
"""Name of the content in a bundle."""
SCHEMA = "primesvt-report/1"
_MOST_BYTES = 16_000_000

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Points = Annotated[float, msgspec.Meta(ge=-1000.0, le=1000.0)]
_Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_Amount = Annotated[float, msgspec.Meta(ge=0.0, le=1e15)]
_Text = Annotated[str, msgspec.Meta(max_length=20_000)]
_Picture = Annotated[
    str, msgspec.Meta(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}\Z")
]
"""Nothing else: a page shows it as it is."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the content: immutable, without fields of others."""


class LayerBytes(_Part, frozen=True, kw_only=True):
    """Bytes of one layer; the layers are disjoint and sum to all weights, to the byte.

    A norm that is folded belongs to the layer before it; one that cannot be is its own layer.

    Args:
        layer: name of the module.
        group: the pruning group that its output channels belong to; empty: they cannot leave.
        dense, shipped: bytes of its weights, their scales and its biases; 0: it is not there.
    """

    layer: _Text
    group: _Text = ""
    dense: _Whole
    shipped: _Whole


class Sensitivity(_Part, frozen=True, kw_only=True):
    """A policy's measure of a group, one number a rate.

    Args:
        group: name of the group.
        rates: shares of its channels removed.
        values: the measure at each rate.
    """

    group: _Text
    rates: tuple[_Share, ...]
    values: tuple[_Number, ...]


class TriedPlan(_Part, frozen=True, kw_only=True):
    """One candidate that the search evaluated.

    Args:
        step: `robustness`, `free` (channels that never change leave), or the name of the policy.
        group: the group that was varied; empty where several were.
        rate: share of its channels removed.
        bytes: predicted bytes of what the budget counts.
        drop: points lost on the `n` search images that it was judged on.
        low, high: the drop's 95% interval.
        n: search images seen.
        decision: before all of them it was sure that it loses too much (`beyond`) or not
            (`within`); empty: it was judged on all of them.
        accepted: on the way to the plan that was chosen.
    """

    step: _Text
    group: _Text = ""
    rate: _Share
    bytes: _Whole
    drop: _Points
    low: _Points
    high: _Points
    n: _Whole
    decision: Literal["", "within", "beyond"] = ""
    accepted: bool


class MemoryStage(_Part, frozen=True, kw_only=True):
    """Resident memory of a fresh process after one stage of a run; None: not measured.

    Args:
        stage: `import` (Python and onnxruntime), `load`, `first run`; and `peak`, the most
            that there was until then.
        dense, shipped: bytes at the end of the stage.
    """

    stage: _Text
    dense: _Whole | None
    shipped: _Whole | None


class LayerEnergy(_Part, frozen=True, kw_only=True):
    """Energy estimate of one operation's layer for one image, pJ.

    Args:
        layer: name of the module.
        dense, shipped: picojoules; None: the model has no such operation.
    """

    layer: _Text
    dense: _Amount | None
    shipped: _Amount | None


class LayerFiring(_Part, frozen=True, kw_only=True):
    """Spikes of one neuron layer over `report` images.

    Args:
        layer: name of the neuron layer.
        dense, shipped: mean firing rate a neuron and timestep; None: the model has no such layer.
        by_timestep: of the shipped model, a rate for each timestep.
        channels: of the shipped model; 0 where it has no such layer.
        silent, constant: of these, those that never fire, and those that fire at every position in
            every timestep of every image.
    """

    layer: _Text
    dense: _Share | None
    shipped: _Share | None
    by_timestep: tuple[_Share, ...]
    channels: _Whole
    silent: _Whole
    constant: _Whole


class SpikeRaster(_Part, frozen=True, kw_only=True):
    """Spikes of one neuron layer of the shipped model for the sample image.

    Args:
        layer: name of the neuron layer.
        rates: for each timestep, the mean over positions of each shown channel's output, as a share
            of the largest that there can be; of more than 64 channels that many, evenly spaced.
    """

    layer: _Text
    rates: tuple[tuple[_Share, ...], ...]


class SampleImage(_Part, frozen=True, kw_only=True):
    """One image as the shipped model sees it.

    Args:
        image: PNG or JPEG, encoded in base64, with its media type: a `data:` URL.
        label: its class; `predicted` the shipped model's.
        probability: of the predicted class.
        rasters: of at most 8 neuron layers, evenly spaced, the first that fires first.
        attention: what the last attention passes on to its projection, `proj`, at each token: the
            mean over channels and timesteps, in rows of the token grid. In SSA these are the
            spikes of the neuron behind `q k^T v`, in other attentions spikes that others gate.
            Empty: the model has no such attention, or is a user's own module.
        attention_layer: name of the module that it is of.
    """

    image: _Picture
    label: _Text
    predicted: _Text
    probability: _Share
    rasters: tuple[SpikeRaster, ...] = ()
    attention: tuple[tuple[_Number, ...], ...] = ()
    attention_layer: _Text = ""


class ConfusedPair(_Part, frozen=True, kw_only=True):
    """Held-out images of one class that were taken for one class (itself, too).

    Args:
        label, predicted: indices into the classes.
        dense, shipped: how many images.
    """

    label: _Whole
    predicted: _Whole
    dense: _Whole
    shipped: _Whole


class ClassifiedImage(_Part, frozen=True, kw_only=True):
    """A held-out image that the dense model gets right and the shipped one does not.

    Args:
        index: of the image in the held-out split.
        image: a `data:` URL.
        label: its class, which the dense model predicts.
        dense_probability: that the dense model gives it.
        predicted: the shipped model's class.
        shipped_probability: that the shipped model gives `predicted`.
    """

    index: _Whole
    image: _Picture
    label: _Text
    dense_probability: _Share
    predicted: _Text
    shipped_probability: _Share


class ReportContent(_Part, frozen=True, kw_only=True):
    """Everything that a report shows and the manifest does not have; empty where not measured.

    Args:
        schema: of this content.
        layers: bytes by layer, in the model's order.
        tried: every candidate of the search, but for the dense model itself.
        sensitivity: of a policy that measures one; `sensitivity_of` says what its values are.
        memory: of the dense and the shipped artifact, stage by stage.
        energy: estimates by layer, from firing rates.
        firing: spikes by neuron layer; `firing_images` is how many images they are means of.
        sample: an image, its spikes and its attention.
        classes: names of the classes.
        confusion: only pairs that occurred.
        lost: up to a dozen images that pruning lost.
        notes: why a part is empty that could not be gathered, a line each.
    """

    schema: _Text = SCHEMA
    layers: tuple[LayerBytes, ...] = ()
    tried: tuple[TriedPlan, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    sensitivity_of: _Text = ""
    memory: tuple[MemoryStage, ...] = ()
    energy: tuple[LayerEnergy, ...] = ()
    firing: tuple[LayerFiring, ...] = ()
    firing_images: _Whole = 0
    sample: SampleImage | None = None
    classes: tuple[_Text, ...] = ()
    confusion: tuple[ConfusedPair, ...] = ()
    lost: tuple[ClassifiedImage, ...] = ()
    notes: tuple[_Text, ...] = ()


def encode_content(content: ReportContent) -> bytes:
    """The content as JSON, in one line."""
    return msgspec.json.encode(content) + b"\n"


def read_content(path: str | os.PathLike[str]) -> ReportContent:
    """Read the content of a report.

    Args:
        path: of a `report.json`.

    Raises:
        BundleError: there is none, it cannot be read, or it is not what a build writes.
    """
    name = on_one_line(os.fspath(path))
    try:
        content = msgspec.json.decode(read_regular(path, most=_MOST_BYTES), type=ReportContent)
        _check(content)
    except FileNotFoundError as error:
        raise BundleError(
            f"there is no {name}: a bundle of an earlier version has none; build it again"
        ) from error
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        why = reason_of(error) if isinstance(error, OSError) else first_line(error)
        raise BundleError(
            f"{name} is not what a build writes ({why}): copy or build the bundle again"
        ) from error
    return content


def _check(content: ReportContent) -> None:
    """Refuse parts that contradict one another; raises ValueError."""
    for problem in _problems(content):
        raise ValueError(problem)


def _problems(content: ReportContent) -> Iterator[str]:
    if content.schema != SCHEMA:
        yield f"its schema is {content.schema[:40]!r}, expected {SCHEMA!r}"
    classes = len(content.classes)
    if any(max(pair.label, pair.predicted) >= classes for pair in content.confusion):
        yield f"a pair of classes is beyond the {classes} that it has"
    if any(len(curve.rates) != len(curve.values) for curve in content.sensitivity):
        yield "a sensitivity has not one value a rate"
    sample = content.sample
    grids = () if sample is None else (sample.attention, *(r.rates for r in sample.rasters))
    if any(len({len(row) for row in grid}) > 1 for grid in grids):
        yield "a grid of the sample image has rows of several lengths"
