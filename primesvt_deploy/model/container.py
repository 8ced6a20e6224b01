"""Find the weights among all that a training script saved in one file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.stored_objects import Dropped

__all__ = ["Weights", "find_weights", "is_average"]

_USUAL = ("state_dict", "model", "module")
"""Names that mean the model wherever they stand, however deep."""
_AVERAGED = re.compile(r"(?:^|[_.])(?i:ema|swa|avg|averaged?)(?:[_.A-Z]|$)")
"""Found in the names of exponential moving and other averages of the weights."""
_OF_MODELS = re.compile(
    r"(?i)(?:^|[_.])(?:model|module|net|network|backbone|encoder|student|teacher|online|target|"
    r"momentum|ema|swa|avg|averaged?)(?:[_.\d]|$)"
)
"""Found in the prefixes of a whole model's entries among several models'."""
_DEPTH = 2
"""Containers that are looked into, one in another, apart from those of a usual name."""
_MOST_LEVELS = 20
"""Containers in one another, of whatever names."""


@dataclass(frozen=True)
class Weights:
    """A state_dict inside a file.

    Args:
        path: names of the containers around it, outermost first.
        state: its tensors.
        ignored: names of entries beside them that hold no tensor, such as an epoch.
        others: values of `--key` that choose other models' weights in the file.
    """

    path: tuple[str, ...]
    state: dict[str, torch.Tensor]
    ignored: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The value of `--key` that chooses it."""
        return ".".join(self.path)

    @property
    def averaged(self) -> bool:
        """Whether it is an average of the weights, by its name."""
        return any(map(is_average, self.path))


def is_average(name: str) -> bool:
    """Whether a name says that it is of an average of the weights."""
    return _AVERAGED.search(name) is not None


def find_weights(content: Any, *, ema: bool = False, key: str | None = None) -> Weights:
    """The model's state_dict inside the content of a file.

    A mapping of names to tensors is one; it may stand within two levels of containers of any
    name. Of several, those of a usual name (`state_dict`, `model`, `module`) come before others,
    and averages are read on request alone.

    Args:
        content: what the file holds.
        ema: read the averaged weights.
        key: name of the container to read, with dots between levels, or a prefix of the names of
            one model's entries among several models'; None: find it.

    Raises:
        ModelError: there are no weights, or several, of which none is the obvious one.
    """
    if key is not None:
        return _at_key(content, key, ema=ema)
    found = list(_candidates(content, (), _DEPTH, set()))
    found = [one for one in found if _has_layers(one.state)] or found
    if ema:
        found = [one for one in found if one.averaged]
        if not found:
            raise ModelError(_no_average(content))
        return _only(found)
    if not found:
        raise ModelError(_misfit(content))
    averages = [one for one in found if one.averaged]
    live = [one for one in found if not one.averaged]
    # Beside an average, a loss may have weights of its own, but hardly as many as a model.
    most = max((len(one.state) for one in averages), default=0)
    models = any(10 * len(one.state) > most for one in live)
    return _only(live if models else averages)


def _no_average(content: Any) -> str:
    """Message where averages were asked for: there are none, or under a prefix of their own."""
    prefixes = {
        prefix
        for one in _candidates(content, (), _DEPTH, set())
        for prefix in _prefixes(one)
        if is_average(prefix)
    }
    advice = f"pass --key {min(prefixes)} instead" if prefixes else "drop --ema"
    return f"holds no averaged weights (such as state_dict_ema): {advice}"


def _prefixes(weights: Weights) -> Iterator[str]:
    """First parts of the names of its entries, behind what all share."""
    names = [name.split(".") for name in weights.state]
    shared = 0
    while all(len(parts) > shared + 1 for parts in names) and (
        len({parts[shared] for parts in names}) == 1
    ):
        shared += 1
    yield from dict.fromkeys(
        ".".join(parts[: shared + 1]) for parts in names if parts[shared + 1 :]
    )


def _only(found: Sequence[Weights]) -> Weights:
    """The one state_dict, or the one of a usual name.

    Raises:
        ModelError: there are several.
    """
    usual = [one for one in found if all(part in _USUAL for part in one.path)]
    chosen = usual if len(usual) == 1 else found
    if len(chosen) > 1:
        raise ModelError(f"holds several models' weights ({_names(found)}): choose one with --key")
    size = len(chosen[0].state)
    others = tuple(
        one.name for one in found if one is not chosen[0] and one.path and 2 * len(one.state) > size
    )
    return replace(chosen[0], others=others)


def _at_key(content: Any, key: str, *, ema: bool) -> Weights:
    if ema:
        raise ModelError("--key names the weights to read: drop --ema")
    key = key.strip().rstrip(".")
    if not key:
        raise ModelError("--key is empty: expected a name, such as model")
    for path, inner in _reached(content, (), key):
        found = list(_candidates(inner, path, 1, set()))
        if found:
            return _only(found)
    found = list(_candidates(content, (), _DEPTH, set()))
    prefixed = [part for one in found if (part := _with_prefix(one, key)) is not None]
    if prefixed:
        return _only([part for part in prefixed if not part.averaged] or prefixed)
    named = [one for one in found if one.path]
    prefixes = [p for one in found for p in _prefixes(one) if _OF_MODELS.search(p)]
    keys = [*(one.name for one in named), *prefixes]
    expected = f"expected one of {_listed(keys)}" if keys else "drop --key, it is one model's"
    said = key if len(key) <= 60 else f"{key[:60]}..."
    raise ModelError(
        f"holds no weights at {said!r} (--key): {expected if found else 'it holds none'}"
    )


def _with_prefix(weights: Weights, key: str) -> Weights | None:
    """The entries whose names begin with a key, without it; None: there are none."""
    inner = key.removeprefix(f"{weights.name}.") if weights.path else key
    prefixes = {f"{inner}.", *(f"{p}." for p in _prefixes(weights) if p.endswith(f".{inner}"))}
    prefix = next((p for p in sorted(prefixes) if any(k.startswith(p) for k in weights.state)), "?")
    state = {k.removeprefix(prefix): t for k, t in weights.state.items() if k.startswith(prefix)}
    return Weights((*weights.path, prefix[:-1]), state) if state else None


def _reached(
    content: Any, path: tuple[str, ...], key: str
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Values at a dotted key, where names may have dots themselves."""
    if not isinstance(content, Mapping):
        return
    if key in content:
        yield (*path, key), content[key]
    for dot in re.finditer(r"\.", key):
        head, rest = key[: dot.start()], key[dot.end() :]
        if head in content:
            yield from _reached(content[head], (*path, head), rest)


def _names(found: Sequence[Weights]) -> str:
    return _listed([one.name or "the file's own entries" for one in found])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")


def _candidates(
    content: Any, path: tuple[str, ...], depth: int, seen: set[int]
) -> Iterator[Weights]:
    """All state_dicts in a value, the value itself or within `depth` containers.

    Args:
        content: the value.
        path: names of the containers around it.
        depth: containers that may still be looked into.
        seen: identities of the mappings looked into, of which none is looked into twice.
    """
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    if "param_groups" in content:  # an optimizer's state
        return
    inside: list[Weights] = []
    for name, value in content.items():
        left = depth if name in _USUAL else depth - 1
        if isinstance(name, str) and left >= 0 and len(path) < _MOST_LEVELS:
            inside += _candidates(value, (*path, name), left, seen)
    if not inside or _has_layers(content):
        apart = {one.path[len(path)] for one in inside}
        own = {name: value for name, value in content.items() if name not in apart}
        if _is_state(own):
            state = {name: value for name, value in own.items() if isinstance(value, torch.Tensor)}
            yield Weights(path, state, tuple(name for name in own if name not in state))
    yield from inside


def _has_layers(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping has the weights of layers, which other tensors of a script are not."""
    return any(
        str(name).endswith("weight") and isinstance(value, torch.Tensor) and value.ndim >= 2
        for name, value in content.items()
    )


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping has tensors by name, and beside them nothing that holds one."""
    others = [value for value in content.values() if not isinstance(value, torch.Tensor)]
    return (
        len(others) < len(content)
        and all(isinstance(name, str) for name in content)
        and not any(_holds_tensor(value) for value in others)
    )


def _holds_tensor(value: Any) -> bool:
    """Whether a value is or holds a tensor; it may hold one list twice, or itself."""
    waiting, seen = [value], {id(value)}
    while waiting:
        part = waiting.pop()
        if isinstance(part, torch.Tensor):
            return True
        if isinstance(part, Mapping | list | tuple | set):
            inner = [p for p in (part.values() if isinstance(part, Mapping) else part)
                     if isinstance(p, torch.Tensor | Mapping | list | tuple | set)]  # fmt: skip
            waiting += [p for p in inner if id(p) not in seen]
            seen.update(map(id, inner))
    return False


def _misfit(content: Any) -> str:
    """Ending of a message about content that has no weights."""
    for _ in range(9):  # a file may hold a container that holds itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in _USUAL if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return f"holds a {type(content).__name__}, expected a state_dict: names and tensors"
    for name, value in content.items():
        if not isinstance(name, str):
            return f"{name!r} is no name of a tensor: save the model's state_dict alone"
        if not isinstance(value, torch.Tensor):
            # Numpy's arrays are dropped as they are read.
            kind = "numpy array or the like" if isinstance(value, Dropped) else type(value).__name__
            return f"{name!r} is a {kind}, expected a tensor: save the model's state_dict alone"
    return "holds no tensors: expected a trained model's state_dict"
