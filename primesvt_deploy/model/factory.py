"""Call a user's factory, `module:function`, which makes a model of the user's own class."""

from __future__ import annotations

import importlib
import os
import re
import sys

from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.model.clock_driven import install_clock_driven
from primesvt_deploy.model.find_factory import split_factory

__all__ = ["call_factory"]


def call_factory(factory: str) -> nn.Module:
    """Import and call a factory, without arguments.

    Args:
        factory: `module:function`; the module is searched in the current directory as well, and
            may import SpikingJelly's old `clock_driven`, see `install_clock_driven`.

    Returns:
        The module that it makes.

    Raises:
        ModelError: there is no such module or function, it fails, or it makes no `nn.Module`.
    """
    name, function = split_factory(factory)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    install_clock_driven()
    # Importing and calling run the user's code, which may raise anything, or exit.
    try:
        maker = getattr(importlib.import_module(name), function)
    except (Exception, SystemExit) as error:
        dropped = f"; drop .py: {name[:-3]}:{function}" if name.endswith(".py") else ""
        reason = f"{type_and_message(error)}{_of_old_spikingjelly(error)}{dropped}"
        raise ModelError(f"--factory {factory}: {reason}") from error
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"--factory {factory}: it failed when called without arguments "
            f"({type_and_message(error)}{_of_old_spikingjelly(error)})"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"--factory {factory} made a {type(made).__name__}, expected an nn.Module")
    return made


def _of_old_spikingjelly(error: BaseException) -> str:
    """Ending of a message about code for a SpikingJelly before 2.0; else empty."""
    text = str(error)
    if "unexpected keyword argument 'backend'" in text:
        return "; neurons of SpikingJelly 2 take no backend: leave it out"
    old = re.search(r"cannot import name 'MultiStep(\w+Node)' from 'spikingjelly", text)
    return f"; in SpikingJelly 2 it is {old[1]}(step_mode='m')" if old else ""
