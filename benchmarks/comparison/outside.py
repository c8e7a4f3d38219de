"""A loss that is not in this repository, by its module and its name: `module:Loss`."""

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

FORM = "a module and a loss in it, such as my_module:MyLoss"


def load_loss(name: str) -> Callable[..., Any]:
    """Return the class or the function that `module:Loss` names.

    The module may lie in the current folder, which is searched first.

    Args:
        name: Both with dots where they lie deeper: `package.module:Class.method`.

    Raises:
        ValueError: If `name` has another form, if there is no such module, it fails when it is
            imported or has no such attribute, or if that cannot be called.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"Expected {FORM}, got {name!r}.")
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    try:
        loss = reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        raise ValueError(
            f"Expected an attribute of {module_name} in {name!r}, got none ({error}): "
            f"{getattr(module, '__file__', None) or module_name} defines {_callables_of(module)}."
        ) from error
    if not callable(loss):
        raise ValueError(
            f"Expected a class or a function in {name!r}, got an object of {type(loss).__name__}."
        )
    return loss


def _import(name: str) -> ModuleType:
    with _current_folder_first():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ValueError(_failed(name, error)) from error  # it imports what is not there
            hint = ": leave out .py" if name.endswith(".py") else ""
            raise ValueError(
                f"Expected a module that is installed or stands in {Path.cwd()}, "
                f"got {name!r} ({error}){hint}."
            ) from error
        except (Exception, SystemExit) as error:  # whatever the module does
            raise ValueError(_failed(name, error)) from error


def _failed(name: str, error: BaseException) -> str:
    return (
        f"Expected a module that can be imported, got {name!r}, which raises "
        f"{type(error).__name__}: {error}"
    )


def _callables_of(module: ModuleType) -> str:
    """Return the names of the classes and functions that a module itself defines."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(own) or "none that could be one"


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """Look for modules in the current folder first: a script looks only in its own folder."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what the module imports later
