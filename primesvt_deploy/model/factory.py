"""Call a user's factory, `module:function`, which makes a model of the user's own class."""

from __future__ import annotations

import importlib
import os
import sys

from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message

__all__ = ["call_factory"]


def call_factory(factory: str) -> nn.Module:
    """Import and call a factory, without arguments.

    Args:
        factory: `module:function`; the module is searched in the current directory as well.

    Returns:
        The module that it makes.

    Raises:
        ModelError: there is no such module or function, it fails, or it makes no `nn.Module`.
    """
    name, _, function = factory.partition(":") if isinstance(factory, str) else ("", "", "")
    if not name or not function:
        raise ModelError(f"factory is {factory!r}: expected MODULE:FUNCTION, such as nets:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # Importing and calling run the user's code, which may raise anything, or exit.
    try:
        maker = getattr(importlib.import_module(name), function)
    except (Exception, SystemExit) as error:
        raise ModelError(f"--factory {factory}: {type_and_message(error)}") from error
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"--factory {factory}: it failed when called without arguments "
            f"({type_and_message(error)})"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"--factory {factory} made a {type(made).__name__}, expected an nn.Module")
    return made
