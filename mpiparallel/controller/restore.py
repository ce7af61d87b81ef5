"""What a controller that was killed leaves to the one that is started in its place.

The server writes ``controller.json`` into its folder: its keys and addresses, and the worlds that it has. It
does so whenever one of them changes, which is rare. A controller that ends in order removes the file; one
that finds it takes over. Worlds and clients then connect again by themselves, and say what they are doing.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from pathlib import Path

import msgspec

from mpiparallel import __version__, connection_file
from mpiparallel.controller.keys import Keys
from mpiparallel.controller.state import State, World
from mpiparallel.wire.messages import HelloWorld

log = logging.getLogger(__name__)

NAME = connection_file.SAVED


class SavedWorld(msgspec.Struct, frozen=True):
    """A world, and its engines that are not up any more."""

    hello: HelloWorld
    first: int
    dead: list[int]
    stopped: list[int]
    watched: bool  # whether its bridge's process could be seen


class Saved(msgspec.Struct, frozen=True):
    """What the file holds."""

    version: str
    host: str
    cluster_id: str
    ip: str
    port: int
    socket_dir: str
    keys: Keys
    next_engine: int
    worlds: list[SavedWorld]


def saved_worlds(state: State) -> list[SavedWorld]:
    """Return the worlds of a hub as they are to be written."""
    found = []
    for world in state.worlds.values():
        gone = [
            number for number in world.numbers if number not in world.engines and number not in world.dead
        ]
        found.append(SavedWorld(world.hello, world.first, sorted(world.dead), gone, world.watched))
    return found


def to_world(saved: SavedWorld, now: float) -> World:
    """Return a world for `Hub.restore`."""
    return World(saved.hello.name, None, saved.hello, now, first=saved.first, dead=set(saved.dead))


def write(directory: Path, saved: Saved) -> None:
    connection_file.write_private(directory / NAME, msgspec.json.encode(saved))


def remove(directory: Path) -> None:
    (directory / NAME).unlink(missing_ok=True)


def read(directory: Path) -> Saved | None:
    """Return what an earlier controller has left in `directory`, if it is of use here."""
    path = directory / NAME
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _tell(path, error.strerror or str(error))
        return None
    problem = ""
    saved = None
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        problem = "it belongs to somebody else, or others can use it"
    else:
        try:
            saved = msgspec.json.decode(content, type=Saved)
        except msgspec.MsgspecError as error:
            problem = str(error)
    if saved is not None and saved.version != __version__:
        problem = f"it is of version {saved.version}"
    elif saved is not None and saved.host != socket.gethostname():
        problem = f"it is of host {saved.host}"
    if problem:
        _tell(path, problem)
        return None
    return saved


def _tell(path: Path, why: str) -> None:
    log.warning("nothing is taken over from an earlier controller by %s: %s", path, why)
