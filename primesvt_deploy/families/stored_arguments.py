"""Arguments of training scripts that change the forward pass, and the values that a family covers.

Forks keep a family's layers, and so its keys, and compute something else. Their own arguments,
which training scripts store beside the weights, tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from primesvt_deploy.families.config import NetworkConfig

__all__ = [
    "Contradiction",
    "StoredArgument",
    "contradictions",
    "model_named",
    "one_of",
]

_MOST_NAME = 200
"""Most characters of a model's name; longer ones are no family's."""


@dataclass(frozen=True, kw_only=True)
class StoredArgument:
    """An argument that changes the forward pass.

    Args:
        names: under which scripts store it.
        covers: whether a network of this configuration computes what the value says.
        expected: what it covers, for the message.
        option: the option by which a user says that the value is what the network has.
    """

    names: tuple[str, ...]
    covers: Callable[[Any, NetworkConfig], bool]
    expected: Callable[[NetworkConfig], str]
    option: str | None = None


@dataclass(frozen=True)
class Contradiction:
    """A stored argument that another network than the family's has.

    Args:
        name: of the argument.
        value: stored.
        expected: what the family covers.
        option: the option that would make the network so; None: there is none.
    """

    name: str
    value: Any
    expected: str
    option: str | None


def contradictions(
    own: Collection[StoredArgument],
    arguments: Mapping[str, Any],
    config: NetworkConfig,
    given: Collection[str],
) -> Iterator[Contradiction]:
    """Stored arguments that a family does not cover.

    Args:
        own: of the family, beside those of every family.
        arguments: of the training script.
        config: of the network that its weights are read as.
        given: names of the options that the user gives, which settle what they are about.
    """
    for argument in (*own, *_OF_EVERY_FAMILY):
        if argument.option in given:
            continue
        for name, value in arguments.items():
            if str(name).lower() not in argument.names:
                continue
            value = _number(value)
            if value is None or value == "":
                continue
            if not argument.covers(value, config):
                yield Contradiction(name, value, argument.expected(config), argument.option)


def one_of(*values: str, names: tuple[str, ...]) -> StoredArgument:
    """An argument that a family covers some words of, in any case."""
    return StoredArgument(
        names=names,
        covers=lambda value, _: str(value).lower() in values,
        expected=lambda _: " or ".join(values),
    )


def model_named(*names: str) -> StoredArgument:
    """The name that a training script gives the model, with sizes and data sets behind it.

    Args:
        names: patterns (`re`) of the names in upstream's code, in lower case.
    """
    # Names that upstream's scripts store and never use are no names of a model.
    unused = (
        r"vit[-_]?snn|sewresnet|resnet101|your model|(?:distributed)?dataparallel|optimizedmodule"
    )
    size = (
        r"[-_ ]*(?:\d+[a-z]?|t\d+|v\d+|best|last|final|[tsmlb]|ti|tiny|small|base|large|cifar|"
        r"cifar10|cifar100|c10|c100|imagenet|in1k|dvs|dvsg|hardvs|cifar10[-_]?dvs|gesture|mnist|"
        r"ima\d?|gait|day|night)"
    )
    whole, part, other = (re.compile(one) for one in ("|".join(names), size, unused))
    plain = [name for name in names if re.fullmatch(r"[\w-]+", name)]
    return StoredArgument(
        names=("model", "arch", "model_name"),
        covers=lambda value, _: (
            not isinstance(value, str)
            or other.fullmatch(value.lower()) is not None
            or _is_made_of(whole, part, value.lower())
        ),
        expected=lambda _: " or ".join(plain),
    )


def _is_made_of(whole: re.Pattern[str], part: re.Pattern[str], text: str) -> bool:
    """Whether a text is `whole` and any number of `part`, in a time that `re` does not promise."""
    if len(text) > _MOST_NAME:
        return False
    reached = {end for end in range(len(text) + 1) if whole.fullmatch(text, 0, end)}
    for start in range(len(text)):
        if start in reached:
            ends = range(start + 1, len(text) + 1)
            reached.update(end for end in ends if part.fullmatch(text, start, end))
    return len(text) in reached


def _number(value: Any) -> Any:
    """A number that is stored as text, as a tensor or as the only one of a list, or what it is."""
    if isinstance(value, torch.Tensor):
        value = value.tolist() if value.numel() == 1 and not value.is_meta else None
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is(value: Any, expected: float) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float) or value == expected


def _is_neuron(value: Any, config: NetworkConfig) -> bool:
    """Whether a name of a neuron is of what the network has: plain LIF, or its own kind."""
    # Without the package of a class, and without arguments: `neuron.LIFNode(tau=2.0)`.
    called = re.sub(r"\(.*|[a-z_]\w*\.(?=[a-z_])", "", str(value).lower())
    name = re.sub(r"[^a-z]|multistep|node|neuron|class", "", called)
    if getattr(config, "parametric", False):
        return name in ("plif", "parametriclif")
    if not hasattr(config, "levels"):
        return re.fullmatch(r"(?:lif(?:spike|cupy|torch)*)?", name) is not None
    return name not in ("plif", "parametriclif", "if", "glif", "alif")


def _whole(value: Any, _: NetworkConfig) -> bool:
    """Whether a share of tokens that are kept is all of them."""
    return value in (1, 1.0, 0, 0.0, False) or value in ([], {}, ())


_OF_EVERY_FAMILY = (
    StoredArgument(
        names=("tau", "init_tau", "lif_tau", "neuron_tau", "tau_m"),
        covers=lambda value, config: _is(value, config.tau) or hasattr(config, "levels"),
        expected=lambda config: f"{config.tau:g}",
        option="tau",
    ),
    StoredArgument(
        names=("v_threshold", "threshold", "v_th", "vth", "v_thr", "thresh", "lif_threshold"),
        covers=lambda value, config: _is(value, config.v_threshold) or hasattr(config, "levels"),
        expected=lambda config: f"{config.v_threshold:g}",
        option="v_threshold",
    ),
    StoredArgument(
        names=(
            "spike_mode",
            "neuron",
            "neuron_type",
            "neuron_model",
            "spiking_neuron",
            "node",
            "node_type",
            "lif_type",
        ),
        covers=_is_neuron,
        expected=lambda config: "plif" if getattr(config, "parametric", False) else "lif",
    ),
    StoredArgument(
        names=("dvs_mode",),
        # Of event frames, upstream says it of those data sets alone for which attention pools.
        covers=lambda value, config: (
            config.frames if value else not getattr(config, "pooled_attention", False)
        ),
        expected=lambda config: str(config.frames),
        option="frames",
    ),
    StoredArgument(
        names=("keep_rate", "keep_ratio", "token_keep_ratio", "token_ratio", "token_prune_ratio"),
        covers=_whole,
        expected=lambda _: "all tokens",
    ),
)
