"""Objects that mean something only on an engine: names, and functions with a condition.

They travel as they are, so both ends need their classes.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from mpiparallel.error import UnmetDependency


class Reference:
    """Stands for an expression, such as ``Reference("a[0]")``, that an engine evaluates in its namespace.

    It may be a function to apply, an argument, or an item of a list, tuple or dict argument.

    Raises
    ------
    TypeError
        If `name` is not text.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"illegal name for a Reference: {name!r}")
        self.name = name

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Reference, self.name))


def resolve(value: Any, names: dict[str, Any]) -> Any:
    """Return `value` with References in it, at most one container deep, replaced by what they name."""
    kind = type(value)
    if kind is Reference:
        return eval(value.name, names)
    if kind in (list, tuple) and any(type(item) is Reference for item in value):
        return kind(eval(item.name, names) if type(item) is Reference else item for item in value)
    if kind is dict and any(type(item) is Reference for item in value.values()):
        return {
            key: eval(item.name, names) if type(item) is Reference else item for key, item in value.items()
        }
    return value


def interactive(f: Any) -> Any:
    """Make `f` run as if it had been typed on the engine: its globals are the engine's namespace."""
    if isinstance(f, types.FunctionType):
        main = importlib.import_module("__main__").__dict__
        made = types.FunctionType(f.__code__, main, f.__name__, f.__defaults__, f.__closure__)
        made.__kwdefaults__, made.__doc__ = f.__kwdefaults__, f.__doc__
        made.__annotations__, made.__dict__ = f.__annotations__, dict(f.__dict__)
        # A name that is not in __main__ makes it travel by value, even from an importable module.
        made.__qualname__ = f"<interactive>.{f.__name__}"
        f = made
    f.__module__ = "__main__"
    return f


class dependent:
    """A function which runs on an engine only where `condition` holds there.

    Raises
    ------
    UnmetDependency
        When called where `condition` returns False.
    """

    def __init__(self, condition: Callable[..., Any], f: Any, *args: Any, **kwargs: Any) -> None:
        self.condition, self.f, self.args, self.kwargs = condition, f, args, kwargs
        functools.update_wrapper(self, f, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.condition(*self.args, **self.kwargs) is False:
            raise UnmetDependency(f"{_name(self.condition)} does not hold on this engine")
        f = self.f
        if isinstance(f, Reference):
            f = resolve(f, sys.modules["__main__"].__dict__)
        return f(*args, **kwargs)


class depend:
    """Decorator: run the function only on engines where ``condition(*args, **kwargs)`` is not False."""

    def __init__(self, _condition: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.condition, self.args, self.kwargs = _condition, args, kwargs

    def __call__(self, f: Any) -> dependent:
        return dependent(self.condition, f, *self.args, **self.kwargs)


def require(*modules: Any, **objects: Any) -> depend:
    """Decorator: import modules, and define functions and objects, on the engine before the function runs.

    Parameters
    ----------
    *modules
        Names of modules, modules, or functions (which get their own name).
    **objects
        Anything, under the name it is to have in the engine's namespace.

    Raises
    ------
    TypeError
        If a positional argument is none of these.
    """
    names: list[str] = []
    for item in modules:
        if isinstance(item, types.ModuleType):
            names.append(item.__name__)
        elif isinstance(item, str):
            names.append(item)
        elif isinstance(item, types.FunctionType):
            objects[item.__name__] = item
        else:
            raise TypeError(
                "positional arguments of require are modules, their names or functions, not "
                f"{type(item).__name__}: pass an object by keyword, as require(name=object)"
            )
    return depend(_require, names, objects)


def _require(modules: list[str], objects: dict[str, Any]) -> bool:
    names = sys.modules["__main__"].__dict__
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UnmetDependency(
                f"module {module!r} is required and cannot be imported here: {error}"
            ) from error
        names[module.partition(".")[0]] = sys.modules[module.partition(".")[0]]
    names.update(objects)
    return True


def import_names(module: str, names: tuple[str, ...] = ()) -> None:
    """Do ``import module``, or ``from module import names``, in the engine's namespace."""
    space = sys.modules["__main__"].__dict__
    found = importlib.import_module(module)
    if not names:
        top = module.partition(".")[0]
        space[top] = sys.modules[top]
    for name in names:
        if name == "*":
            public = getattr(found, "__all__", None) or [key for key in vars(found) if key[0] != "_"]
            space.update({key: getattr(found, key) for key in public})
        elif hasattr(found, name):
            space[name] = getattr(found, name)
        else:
            space[name] = _import_submodule(module, name)


def _import_submodule(module: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        raise ImportError(f"cannot import name {name!r} from {module!r}") from None


def _name(f: Any) -> str:
    return getattr(f, "__name__", repr(f))
