"""The ids of communicators that are renewed in place: ``base~leader.number``.

A communicator derived from one has an id that begins with its parent's and a slash: ``world~0.3/1.2``.
"""

from __future__ import annotations


def base_of(id: str) -> str:
    """Return the id that a communicator had at first."""
    parent, slash, own = id.rpartition("/")
    return parent + slash + own.partition("~")[0]


def generation_of(id: str) -> tuple[int, ...]:
    """Return the place of an id among those of one communicator: leaders follow one another by rank."""
    own = id.rpartition("/")[2]
    return tuple(int(number) for number in own.partition("~")[2].split(".") if number)
