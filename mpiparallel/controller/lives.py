"""The lives of tasks, balanced tasks, engines and worlds as the hub sees them: one table each.

The hub calls `advance` with every event; a pair of state and event that is not in the table is a bug of the
hub's, and the error names both.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from mpiparallel.error import IPythonError


class Word(Enum):
    """A state or an event. Members are looked up by identity: tables are read with every message."""

    __hash__ = object.__hash__


class TaskState(Word):
    """A task is one request on one engine."""

    NEW = "new"
    OPEN = "open"  # sent to its world, not answered yet
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"
    LOST = "lost"  # its engine left before it had answered, or was never there


class TaskEvent(Word):
    SENT = "sent"
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"
    ENGINE_GONE = "engine gone"


class BalancedState(Word):
    """A balanced task is one whose engine the hub chooses."""

    WAITING = "waiting"  # for its function, or for other tasks
    QUEUED = "queued"  # for an engine
    OPEN = "open"  # on an engine
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"
    LOST = "lost"  # ended by the hub: its engine died, or there is none for it


class BalancedEvent(Word):
    READY = "ready"  # what it waited for is there
    PLACED = "placed"
    RETURNED = "returned"  # its engine gave it back, or never had it
    RETRIED = "retried"
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"
    HOPELESS = "hopeless"


class EngineState(Word):
    NEW = "new"
    UP = "up"
    STOPPED = "stopped"  # asked to leave: it gets no more work and what it still says is not heard
    LOST = "lost"  # it died, or its world went


class EngineEvent(Word):
    REGISTERED = "registered"
    RECONNECTED = "reconnected"
    STOPPED = "stopped"
    DIED = "died"  # alone: the others of its world go on
    WORLD_GONE = "world gone"


class WorldState(Word):
    NEW = "new"
    UP = "up"
    ADRIFT = "adrift"  # its bridge died and it goes on: another of its ranks is to connect
    STOPPING = "stopping"  # its engines were stopped or have died; its goodbye is to come
    GONE = "gone"


class WorldEvent(Word):
    REGISTERED = "registered"
    RECONNECTED = "reconnected"
    BRIDGE_LOST = "bridge lost"
    LAST_ENGINE_GONE = "last engine gone"
    LEFT = "left"
    LOST = "lost"


TASK = {
    (TaskState.NEW, TaskEvent.SENT): TaskState.OPEN,
    (TaskState.NEW, TaskEvent.ENGINE_GONE): TaskState.LOST,
    (TaskState.OPEN, TaskEvent.OK): TaskState.OK,
    (TaskState.OPEN, TaskEvent.ERROR): TaskState.ERROR,
    (TaskState.OPEN, TaskEvent.ABORTED): TaskState.ABORTED,
    (TaskState.OPEN, TaskEvent.ENGINE_GONE): TaskState.LOST,
}

BALANCED = {
    (BalancedState.WAITING, BalancedEvent.READY): BalancedState.QUEUED,
    (BalancedState.WAITING, BalancedEvent.ABORTED): BalancedState.ABORTED,
    (BalancedState.WAITING, BalancedEvent.HOPELESS): BalancedState.LOST,
    (BalancedState.QUEUED, BalancedEvent.PLACED): BalancedState.OPEN,
    (BalancedState.QUEUED, BalancedEvent.ABORTED): BalancedState.ABORTED,
    (BalancedState.QUEUED, BalancedEvent.HOPELESS): BalancedState.LOST,
    (BalancedState.OPEN, BalancedEvent.RETURNED): BalancedState.QUEUED,
    (BalancedState.OPEN, BalancedEvent.RETRIED): BalancedState.QUEUED,
    (BalancedState.OPEN, BalancedEvent.OK): BalancedState.OK,
    (BalancedState.OPEN, BalancedEvent.ERROR): BalancedState.ERROR,
    (BalancedState.OPEN, BalancedEvent.ABORTED): BalancedState.ABORTED,
    (BalancedState.OPEN, BalancedEvent.HOPELESS): BalancedState.LOST,
}

ENGINE = {
    (EngineState.NEW, EngineEvent.REGISTERED): EngineState.UP,
    (EngineState.UP, EngineEvent.RECONNECTED): EngineState.UP,
    (EngineState.UP, EngineEvent.STOPPED): EngineState.STOPPED,
    (EngineState.UP, EngineEvent.DIED): EngineState.LOST,
    (EngineState.UP, EngineEvent.WORLD_GONE): EngineState.LOST,
}

WORLD = {
    (WorldState.NEW, WorldEvent.REGISTERED): WorldState.UP,
    (WorldState.UP, WorldEvent.RECONNECTED): WorldState.UP,
    (WorldState.UP, WorldEvent.BRIDGE_LOST): WorldState.ADRIFT,
    (WorldState.UP, WorldEvent.LAST_ENGINE_GONE): WorldState.STOPPING,
    (WorldState.UP, WorldEvent.LEFT): WorldState.GONE,
    (WorldState.UP, WorldEvent.LOST): WorldState.GONE,
    (WorldState.ADRIFT, WorldEvent.RECONNECTED): WorldState.UP,
    (WorldState.ADRIFT, WorldEvent.LOST): WorldState.GONE,
    (WorldState.STOPPING, WorldEvent.RECONNECTED): WorldState.STOPPING,
    (WorldState.STOPPING, WorldEvent.LEFT): WorldState.GONE,
    (WorldState.STOPPING, WorldEvent.LOST): WorldState.GONE,
}

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


class TransitionError(IPythonError):
    """An event that the table does not allow in this state."""


def advance(table: dict[tuple[State, Event], State], state: State, event: Event) -> State:
    """Return the state that follows.

    Raises
    ------
    TransitionError
        If the table holds no such pair.
    """
    try:
        return table[state, event]
    except KeyError:
        raise TransitionError(
            f"{type(state).__name__} {state.name}: no transition for {type(event).__name__} {event.name}"
        ) from None
