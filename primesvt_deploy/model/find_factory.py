"""Look for a factory, `module:function`, in the source of its module, which is not imported."""

from __future__ import annotations

import ast
import importlib.machinery
import os
import sys
from collections.abc import Iterator

from primesvt_deploy.edge.runtime.files import read_regular
from primesvt_deploy.errors import ModelError, type_and_message

__all__ = ["find_factory", "split_factory"]

_MOST_SOURCE = 2**24
_BINDING = {"*", "__getattr__", "exec", "globals", "setattr", "vars"}
"""Names in a module that may bind any other."""


def split_factory(factory: str) -> tuple[str, str]:
    """Module and function of `module:function`.

    Raises:
        ModelError: it is of another form.
    """
    name, _, function = factory.partition(":") if isinstance(factory, str) else ("", "", "")
    if not name or not function:
        raise ModelError(f"factory is {factory!r}: expected MODULE:FUNCTION, such as nets:build")
    return name, function


def find_factory(factory: str) -> None:
    """Refuse a factory whose module is not there, cannot be parsed or has no such function.

    What cannot be told from the source, such as what a module imports by `*`, is left to the call.

    Args:
        factory: `module:function`; the module is searched in the current directory as well.

    Raises:
        ModelError: it is not there.
    """
    name, function = split_factory(factory)
    if name in sys.modules:
        return
    if name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ModelError(
            f"--factory {factory}: expected the name of a module, not of a file: pass "
            f"{module}:{function}"
        )
    source = _source_of(factory, name)
    if source is None:
        return
    try:
        tree = ast.parse(read_regular(source, most=_MOST_SOURCE))
    except (SyntaxError, ValueError, RecursionError, OSError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ModelError(f"--factory {factory}: {source}{where}: {type_and_message(error)}") from (
            error
        )
    names = set(_names_in(tree.body))
    if function not in names and not names & _BINDING:
        made = sorted(n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
        found = f": it has {', '.join(made[:5])}{', ...' if made[5:] else ''}" if made else ""
        raise ModelError(f"--factory {factory}: {source} has no {function!r}{found}")


def _source_of(factory: str, name: str) -> str | None:
    """File of a module's source; None: it has none that could be looked at.

    Raises:
        ModelError: there is no such module.
    """
    places: list[str] | None = [os.getcwd(), *sys.path]
    spec = None
    for part in name.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            if part in sys.builtin_module_names:
                return None
            raise ModelError(
                f"--factory {factory}: there is no module {name!r} in {os.getcwd()} or among the "
                "installed ones: run this where its file is, or add its directory to PYTHONPATH"
            )
        found = spec.submodule_search_locations
        places = None if found is None else list(found)
        if places is None:
            break
    origin = spec.origin if spec is not None else None
    return origin if origin is not None and origin.endswith(".py") else None


def _names_in(body: list[ast.stmt]) -> Iterator[str]:
    """Names that statements at the top of a module bind or use; a function's inner ones are not."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield (alias.asname or alias.name).partition(".")[0]
        else:
            # Loops, conditions and the like may bind names in any depth.
            yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
            inner = [node for node in ast.walk(statement) if isinstance(node, ast.stmt)]
            yield from _names_in([node for node in inner if node is not statement])
