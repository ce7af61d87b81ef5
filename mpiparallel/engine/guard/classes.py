"""Classes that stand in for mpi4py's in the module `mpi4py.MPI`."""

from __future__ import annotations

from typing import Any


class StandIn(type):
    """The class of a guarded class: objects of the class that it stands in for are its instances, too.

    So `isinstance(x, MPI.Request)` is true of requests that other libraries have made.
    """

    stands_for: type | None

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], stands_for: type | None = None
    ) -> StandIn:
        """Make a class; one that stands in for another has its name, so that pickles and people find that."""
        if stands_for is not None:
            namespace.update(__module__=stands_for.__module__, __qualname__=stands_for.__qualname__)
            namespace.setdefault("__doc__", stands_for.__doc__)
            namespace["plain"] = stands_for
            name = stands_for.__name__
        cls = super().__new__(mcs, name, bases, namespace)
        cls.stands_for = stands_for
        return cls

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], stands_for: type | None = None
    ) -> None:
        super().__init__(name, bases, namespace)

    def __instancecheck__(cls, instance: Any) -> bool:
        return (
            isinstance(instance, cls.stands_for) if cls.stands_for else type.__instancecheck__(cls, instance)
        )

    def __subclasscheck__(cls, subclass: type) -> bool:
        return (
            issubclass(subclass, cls.stands_for) if cls.stands_for else type.__subclasscheck__(cls, subclass)
        )


class FromHandle:
    """Makes guarded objects from handles, too."""

    __slots__ = ()

    plain: Any  # mpi4py's own class

    @classmethod
    def fromhandle(cls, handle: int) -> Any:
        """Create an object from an MPI handle."""
        return cls._of(cls.plain.fromhandle(handle))

    @classmethod
    def fromint(cls, arg: int, /) -> Any:
        """Translate an integer handle to an object."""
        return cls._of(cls.plain.fromint(arg))

    @classmethod
    def f2py(cls, arg: int) -> Any:
        """Translate a Fortran handle to an object."""
        return cls._of(cls.plain.f2py(arg))

    @classmethod
    def _of(cls, obj: Any) -> Any:
        make: Any = cls
        return make(obj)
