"""SpikingJelly's old `clock_driven` package, as far as `activation_based` computes the same.

SpikingJelly 2.0 has no `clock_driven` any more, which much published code of spiking transformers
imports. Names whose defaults and equations are the same are given under their old names; any other
is refused with its new name. `tests/model/test_clock_driven.py` holds the equations.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from spikingjelly.activation_based import base, functional, layer, neuron, surrogate

__all__ = ["install_clock_driven"]

_OLD, _NEW = "spikingjelly.clock_driven", "spikingjelly.activation_based"
_NEURON = ("v_threshold", "v_reset", "surrogate_function", "detach_reset")
_LIF = ("tau", "decay_input", *_NEURON)
_PLIF = ("init_tau", "decay_input", *_NEURON)
_BACKEND = ("backend", "lava_s_cale")
_BACKENDS = ("torch", "cupy")
"""Backends that compute the same; Lava's rounds."""


def install_clock_driven() -> None:
    """Let `import spikingjelly.clock_driven` find this module's names, where it finds nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _new_arguments(
    names: Sequence[str], args: Sequence[Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of an old constructor by name, without those that only chose a backend.

    Raises:
        TypeError: more are given than it had, or one twice.
        ValueError: a backend that computes otherwise.
    """
    if len(args) > len(names) or set(names[: len(args)]) & options.keys():
        raise TypeError(f"expected at most once each of {', '.join(names)}")
    given = {**dict(zip(names, args, strict=False)), **options}
    backend = given.pop("backend", "torch")
    if backend not in _BACKENDS:
        raise ValueError(f"backend is {backend!r}: expected one of {', '.join(_BACKENDS)}")
    return {k: v for k, v in given.items() if k not in ("lava_s_cale", "cupy_fp32_inference")}


class IFNode(neuron.IFNode):  # type: ignore[misc]
    """Integrate-and-fire neuron of one timestep a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments((*_NEURON, "cupy_fp32_inference"), args, options))


class MultiStepIFNode(IFNode):
    """Integrate-and-fire neuron of all timesteps a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments((*_NEURON, *_BACKEND), args, options))
        self.step_mode = "m"


class LIFNode(neuron.LIFNode):  # type: ignore[misc]
    """Leaky integrate-and-fire neuron of one timestep a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments((*_LIF, "cupy_fp32_inference"), args, options))


class MultiStepLIFNode(LIFNode):
    """Leaky integrate-and-fire neuron of all timesteps a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments((*_LIF, *_BACKEND), args, options))
        self.step_mode = "m"


class ParametricLIFNode(neuron.ParametricLIFNode):  # type: ignore[misc]
    """LIF neuron of a learnt time constant, of one timestep a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments(_PLIF, args, options))


class MultiStepParametricLIFNode(ParametricLIFNode):
    """LIF neuron of a learnt time constant, of all timesteps a call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(**_new_arguments((*_PLIF, *_BACKEND), args, options))
        self.step_mode = "m"


class MultiStepDropout(layer.Dropout):  # type: ignore[misc]
    """Dropout of one mask for all timesteps."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p, step_mode="m")


_NODES = (
    *(IFNode, LIFNode, ParametricLIFNode),
    *(MultiStepIFNode, MultiStepLIFNode, MultiStepParametricLIFNode),
)
_SURROGATES = (
    *("PiecewiseQuadratic", "PiecewiseExp", "Sigmoid", "SoftSign", "ATan", "NonzeroSignLogAbs"),
    *("Erf", "SquarewaveFourierSeries", "S2NN", "QPseudoSpike", "heaviside"),
)
"""PiecewiseLeakyReLU is left out: its gradient has changed."""
_MODULES: dict[str, dict[str, Any]] = {
    "": {},
    "neuron": {node.__name__: node for node in _NODES} | {"BaseNode": neuron.BaseNode},
    "layer": {
        "SeqToANNContainer": layer.SeqToANNContainer,
        "MultiStepContainer": layer.MultiStepContainer,
        "Dropout": layer.Dropout,
        "Dropout2d": layer.Dropout2d,
        "MultiStepDropout": MultiStepDropout,
    },
    "functional": {
        name: getattr(functional, name)
        for name in ("reset_net", "multi_step_forward", "seq_to_ann_forward")
    },
    "surrogate": {name: getattr(surrogate, name) for name in _SURROGATES},
    "base": {"MemoryModule": base.MemoryModule},
}


class _Finder(MetaPathFinder, Loader):
    """Makes the modules of `clock_driven`; last in `sys.meta_path`, so that a real one wins."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _OLD and not fullname.startswith(f"{_OLD}."):
            return None
        name = fullname.removeprefix(_OLD).removeprefix(".")
        if name not in _MODULES:
            raise ImportError(_advice("", name))
        return ModuleSpec(fullname, self, is_package=not name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(_OLD).removeprefix(".")
        vars(module).update(_MODULES[name])
        if name:
            vars(module)["__getattr__"] = _refusing(name)


def _refusing(module: str) -> Callable[[str], Any]:
    def refuse(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _MODULES:  # as the old module imported it, and code took it from there
            return importlib.import_module(f"{_OLD}.{name}")
        raise ImportError(_advice(module, name))

    return refuse


def _advice(module: str, name: str) -> str:
    """One line on a name that is not the same in SpikingJelly 2: the new one, if there is one."""
    place = f"{_NEW}.{module}".removesuffix(".")
    new = name.removeprefix("MultiStep")
    try:
        importlib.import_module(f"{place}.{new}" if not module else place)
        known = not module or hasattr(sys.modules[place], new)
    except ImportError:
        known = False
    mode = " with step_mode='m'" if new != name else ""
    change = f"use {place}.{new}{mode} in your code" if known else "it has none of that name"
    old = f"{_OLD}.{module}".removesuffix(".")
    return f"SpikingJelly 2 has no {old}.{name}: {change}"
