"""Fit the entries of a stored state_dict to a model: prefixes, counters, other number types.

A note tells of every entry that was passed over, so that nothing is dropped in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.container import is_average

__all__ = ["check_numbers", "entries_of_family", "entries_of_module", "others_note", "widened_note"]

_State = Mapping[str, torch.Tensor]

_NEVER_READ = re.compile(
    r"(?:.+\.)?(?:"
    r"total_ops|total_params"  # counters of thop
    r"|__flops__|__params__"  # of ptflops
    r"|profiler\..+"
    r"|surrogate_function\.alpha"  # of older SpikingJelly, read in training alone
    r"|n_averaged"  # of torch.optim.swa_utils.AveragedModel
    r"|num_batches_tracked"  # read in training alone
    r")"
)
"""Keys that no forward pass in evaluation reads, whatever the model."""
_COUNTER = "num_batches_tracked"
_LIVE = ("", "model", "module", "net", "network", "backbone", "student")
"""Prefixes of the model that is trained, beside which others may stand."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes of wrappers, dropped even where the keys then fit no model."""


def entries_of_family(
    state: _State, recognises: Callable[[Set[str]], bool], beside: Sequence[str] = ()
) -> tuple[dict[str, torch.Tensor], str]:
    """Entries of a state_dict as a family's conversion takes them.

    Keys lose a prefix that they share, such as `module.` or `net.`, where a family recognises
    them without it; of entries with several prefixes, such as a model's and a loss's, those of the
    one model are taken. Harmless entries are left out, and batch counters that are missing are
    added.

    Args:
        state: as it is stored.
        recognises: whether keys are a known family's.
        beside: names of what stood among the entries and is no tensor, for the note.

    Returns:
        The entries, and a note on those left out or added, or "".

    Raises:
        ModelError: they are several models', or one of them has no numbers.
    """
    kept = {k: t for k, t in state.items() if not _is_harmless(k) or k.endswith(_COUNTER)}
    found, others = _fitting(kept, lambda one: recognises(one.keys()))
    if found is None:
        found = _without_wrappers(kept)
    empty = next((key for key, tensor in found.items() if tensor.numel() == 0), None)
    if empty is not None:
        raise ModelError(
            f"holds no numbers in {empty}, whose shape is {list(found[empty].shape)}: use another "
            "checkpoint"
        )
    added = {
        name: torch.tensor(0)
        for key in found
        if key.endswith(".running_mean")
        and (name := f"{key.removesuffix('running_mean')}{_COUNTER}") not in found
    }
    left_out = [*beside, *others, *sorted(state.keys() - kept.keys())]
    return {**found, **added}, _note(left_out, sorted(added))


def entries_of_module(
    state: _State, expected: _State, beside: Sequence[str] = ()
) -> tuple[dict[str, torch.Tensor], str]:
    """Entries of a state_dict under the keys of a module, as far as they fit it.

    Args:
        state: as it is stored.
        expected: state_dict of the module.
        beside: see `entries_of_family`.

    Returns:
        The entries, without harmless ones that the module lacks and with its own batch counters
        where they are missing; and a note on those left out or added, or "".

    Raises:
        ModelError: they are several models'.
    """

    def misfits(one: _State) -> int:
        return sum(not _is_harmless(key) for key in one.keys() ^ expected.keys())

    found, others = _fitting(state, lambda one: not misfits(one))
    if found is None:
        # The first of equals: as few are dropped.
        found = min((one for _, one in _unprefixed(state)), key=misfits)
    left_out = sorted(key for key in found.keys() - expected.keys() if _is_harmless(key))
    added = {k: t for k, t in expected.items() if k.endswith(_COUNTER) and k not in found}
    kept = {key: tensor for key, tensor in found.items() if key not in left_out}
    return {**kept, **added}, _note([*beside, *others, *left_out], sorted(added))


def _note(left_out: Sequence[str], added: Sequence[str]) -> str:
    """Note on entries of a file that were left out, and on those that it lacks; "" if none."""
    parts = []
    if left_out:
        verb = "was" if len(left_out) == 1 else "were"
        parts.append(
            f"{_counted(left_out)} of its checkpoint that the forward pass never reads "
            f"({_first(left_out)}) {verb} left out"
        )
    if added:
        parts.append(f"its checkpoint lacks {len(added)} {_COUNTER}, which are not read either")
    return "; ".join(parts)


def widened_note(state: _State) -> str:
    """Note on tensors of fewer bits than float32, which all become; "" if there are none."""
    kinds = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for tensor in state.values()
        if tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    )
    widened = ", ".join(f"{count} from {kind}" for kind, count in sorted(kinds.items()))
    return f"tensors of its checkpoint were widened to float32: {widened}" if widened else ""


def others_note(others: Sequence[str]) -> str:
    """Note on other models in the file, by what `--key` chooses them with; "" if there are none."""
    if not others:
        return ""
    return f"its file holds other models' weights too: --key {' or '.join(others[:3])} reads them"


def check_numbers(state: _State, module: nn.Module) -> None:
    """Refuse weights that are no floating-point numbers, not finite, or variances below zero.

    Args:
        state: entries under the names of the module.
        module: its norms say which entries are variances.

    Raises:
        ModelError: names the first such tensor.
    """
    expected = module.state_dict()
    variances = {
        f"{name}.running_var".lstrip(".")
        for name, norm in module.named_modules(remove_duplicate=False)
        if isinstance(norm, nn.modules.batchnorm._NormBase)
    }
    for key, tensor in state.items():
        if key not in expected or not expected[key].is_floating_point():
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            advice = "" if tensor.is_complex() else ": save the weights before they are quantized"
            raise ModelError(f"{key} holds {kind} numbers, expected floating-point ones{advice}")
        if not bool(tensor.to(expected[key].dtype).isfinite().all()):
            raise ModelError(f"{key} holds NaN or infinity: use another checkpoint")
        if key in variances and bool((tensor < 0).any()):
            raise ModelError(f"{key} holds a variance below zero: use another checkpoint")


def _counted(keys: Sequence[str]) -> str:
    return f"{len(keys)} entr{'y' if len(keys) == 1 else 'ies'}"


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if keys[3:] else "")


def _is_harmless(key: str) -> bool:
    return _NEVER_READ.fullmatch(key) is not None


def _fitting(
    state: _State, fits: Callable[[_State], bool]
) -> tuple[dict[str, torch.Tensor] | None, list[str]]:
    """Entries of one model without their prefix, or None; and the keys of entries beside them.

    Raises:
        ModelError: they are several models', or the only one that fits may not be the one that is
            meant: an average, or a teacher whose student does not fit.
    """
    found = dict(_models_in(state, fits))
    if not found:
        return None, []
    live = [name for name in found if not is_average(name)]
    chosen = live[0] if live else next(iter(found))
    if len(live) > 1:
        raise ModelError(
            f"holds several models' weights ({', '.join(live)}): choose one with --key"
        )
    # Harmless entries may stand outside of a prefix that all others share.
    entries = {
        stored
        for key in found[chosen]
        for stored in ((f"{chosen}.{key}" if chosen else key), key)
        if stored in state and (stored != key or not chosen or _is_harmless(key))
    }
    averages = tuple(f"{name}." for name in found if name not in live and name != chosen)
    beside = sorted(state.keys() - entries)
    rest = [key for key in beside if not key.startswith(averages)]
    layers = any(state[key].ndim > 1 for key in rest)
    if layers and (not live or chosen.rpartition(".")[2] not in _LIVE):
        raise ModelError(
            f"holds other weights ({_first(rest)}) beside those of {chosen}, the only ones that "
            f"fit: pass --key {chosen} to read these"
        )
    return found[chosen], beside


def _models_in(
    state: _State, fits: Callable[[_State], bool], prefix: str = "", depth: int = 3
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Entries that fit, by their prefix; of those without one the ones that have no other's."""
    for own, one in _unprefixed(state):
        here = f"{prefix}.{own}".strip(".")
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in one.items():
            name, _, tail = key.partition(".")
            parts.setdefault(name, {})[tail] = tensor
        several = len(parts) > 1 and depth > 0
        inside = [
            model
            for name, part in parts.items()
            if several and len(part) > 1
            for model in _models_in(part, fits, f"{here}.{name}".strip("."), depth - 1)
        ]
        apart = tuple(f"{name.removeprefix(here).strip('.')}." for name, _ in inside)
        bare = {k: t for k, t in one.items() if not apart or not k.startswith(apart)}
        if fits(bare):
            yield here, bare
            yield from (model for model in inside if is_average(model[0]))
            return
        if inside:
            yield from inside
            return


def _unprefixed(state: _State) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The entries as they are, then without one more prefix that all that matter share."""
    found, dropped = dict(state), ""
    while True:
        yield dropped, found
        prefixes = {key.partition(".")[0] for key in found if not _is_harmless(key)}
        if len(prefixes) != 1:
            return
        prefix = prefixes.pop()
        if not all(key.startswith(f"{prefix}.") or _is_harmless(key) for key in found):
            return  # a key without a dot
        found = {key.removeprefix(f"{prefix}."): tensor for key, tensor in found.items()}
        dropped = f"{dropped}.{prefix}".strip(".")


def _without_wrappers(state: _State) -> dict[str, torch.Tensor]:
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            return _without_wrappers({k.removeprefix(prefix): t for k, t in state.items()})
    return dict(state)
