"""What engines are doing: the answer to `Client.where`, and how it is shown.

Asked by `Client.where` and by the views. Engines answer one by one; who waits for whom is told here, from all
answers together. The picture is drawn by `wheretree`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel.client.wheretree import draw
from mpiparallel.wire.messages import EngineInfo, Where
from mpiparallel.wire.waits import Part, Place

if TYPE_CHECKING:
    from mpiparallel.client.connection import Connection

PATIENCE = 30.0  # seconds; engines that cannot answer are looked at by others, which takes some


class EnginePlace(Place, frozen=True):
    """What one engine is doing: a `Place`, with what the client knows of the engine.

    Attributes
    ----------
    rank, host
        The engine's place in its world; -1 and empty when it is not known any more.
    waits_for : list of int
        The engines that this one waits for: those who have not come to its collective call, or the other ends
        of its messages. Empty when any engine would do.
    """

    rank: int = -1
    host: str = ""
    waits_for: list[int] = []


class Whereabouts(Sequence[EnginePlace]):
    """What each of several engines is doing; it shows itself as a tree of their stacks.

    A sequence in the order of the engines' ids; ``where[3]`` is engine 3, wherever it stands.

    Attributes
    ----------
    places : list of EnginePlace
    """

    def __init__(self, places: Sequence[EnginePlace]) -> None:
        self.places = sorted(places, key=lambda place: place.engine)
        self._by_engine = {place.engine: place for place in self.places}

    def __getitem__(self, engine: Any) -> Any:
        if isinstance(engine, slice):
            return Whereabouts(self.places[engine])
        try:
            return self._by_engine[engine]
        except KeyError:
            raise IndexError(f"engine {engine!r} is not among these: {self.engines}") from None

    def __iter__(self) -> Iterator[EnginePlace]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def engines(self) -> list[int]:
        """The ids of the engines."""
        return [place.engine for place in self.places]

    def __str__(self) -> str:
        return draw(self.places)

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str:
        # JupyterLab shows a bare <pre> in its proportional font.
        return f'<pre style="font-family: monospace; line-height: 1.3">{html.escape(str(self))}</pre>'

    def to_builtins(self) -> list[dict[str, Any]]:
        """Return everything as lists and dictionaries, for JSON."""
        return [_plain(place) for place in self.places]


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(part) for name, part in msgspec.structs.asdict(value).items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value


def ask(connection: Connection, engines: Sequence[int], timeout: float | None = PATIENCE) -> Whereabouts:
    """Ask what `engines` are doing.

    Their whole worlds are asked, for who is waited for may not be among `engines`.

    Raises
    ------
    TimeoutError
        If the controller does not answer in time.
    """
    known = connection.engines
    worlds = {known[engine].world for engine in engines if engine in known}
    asked = [engine for engine, info in known.items() if info.world in worlds]
    answered: list[Place] = []
    if asked:
        future = connection.ask(lambda query: Where(asked, query))
        try:
            answered = msgspec.convert(future.result(timeout), list[Place])
        except FutureTimeout:
            raise TimeoutError(f"the controller did not say within {timeout:g} s what engines do") from None
    places = {place.engine: place for place in answered}
    for engine in engines:
        if engine not in places:
            reason = connection.departed.get(engine, "it left while it was asked")
            places[engine] = Place(engine, "gone", detail=reason)
    found = locate(places, known)
    return Whereabouts([found[engine] for engine in engines])


def locate(places: Mapping[int, Place], known: Mapping[int, EngineInfo]) -> dict[int, EnginePlace]:
    """Add to `places`, by engine, what `known` says of them, and whom they wait for."""
    # Ranks keep their numbers for the life of a world, and its ids are in rank order.
    first = {info.world: info.id - info.rank for info in known.values()}
    arrived: dict[tuple[str, str, int, str], set[int]] = {}
    for engine, place in places.items():
        info = known.get(engine)
        for part in place.wait.parts if place.wait is not None and info is not None else ():
            if part.kind == "collective" and info is not None:
                arrived.setdefault(_call(info.world, part), set()).add(info.rank)
    missing: dict[tuple[str, str, int, str], set[int]] = {}  # who has not come to a collective call
    located = {}
    for engine, place in places.items():
        info = known.get(engine)
        values = {name: getattr(place, name) for name in Place.__struct_fields__}
        if info is None:
            located[engine] = EnginePlace(**values)
            continue
        ranks: set[int] = set()
        for part in place.wait.parts if place.wait is not None else ():
            if part.kind == "collective" and place.wait is not None:
                call = _call(info.world, part)
                if call not in missing:
                    missing[call] = set(place.wait.members.get(part.comm, ())) - arrived[call]
                ranks |= missing[call]
            elif part.kind in ("receive", "send") and part.peer >= 0:
                ranks.add(part.peer)
        engines = sorted(first[info.world] + rank for rank in ranks)
        located[engine] = EnginePlace(**values, rank=info.rank, host=info.host, waits_for=engines)
    return located


def _call(world: str, part: Part) -> tuple[str, str, int, str]:
    """Return what is the same for all ranks in one collective call."""
    return world, part.comm, part.index, part.signature
